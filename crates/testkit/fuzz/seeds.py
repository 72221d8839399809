#!/usr/bin/env python3
"""Writes the seeds of the fuzz targets anew: the golden bytes of the tests, and small inputs that hold.

    python3 -B crates/testkit/fuzz/seeds.py
"""

import base64
import json
import pathlib
import re
import struct

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[2]


def seed(target, name, data):
    folder = HERE / "seeds" / target
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(data.encode() if isinstance(data, str) else data)


def text(path):
    return (ROOT / path).read_text()


def hexes(source):
    """Hexadecimal literals of a test, those cut over lines joined."""
    joined = re.sub(r"\\\n\s*", "", source)
    return [bytes.fromhex(found) for found in re.findall(r'"((?:[0-9a-f]{2}){10,})"', joined)]


def parts(*pieces):
    """As `cloakroom_fuzz::parts` cuts them."""
    return b"".join(struct.pack("<H", len(piece)) + piece for piece in pieces)


def varint(number):
    out = b""
    while number > 127:
        out, number = out + bytes([number & 127 | 128]), number >> 7
    return out + bytes([number])


def message(*fields):
    """A protobuf message of (tag, number or bytes)."""
    out = b""
    for tag, value in fields:
        if isinstance(value, int):
            out += varint(tag << 3) + varint(value)
        else:
            value = value.encode() if isinstance(value, str) else value
            out += varint(tag << 3 | 2) + varint(len(value)) + value
    return out


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def frame(number, events, pruned=()):
    start = b"\xaa" * 16
    of_pruned = [(9, b"\xcc" * 32)] if pruned else []
    of_pruned += [(10, message(*([(1, index)] if index else []), (2, b"\xdd" * 32))) for index in pruned]
    return message(
        (1, 2 if pruned else 1),
        (2, message((1, start), (2, number))),
        (3, bytes(32)),
        (4, message((1, b"\xbb" * 16), (2, 9))),
        *([(5, number - 1)] if number > 1 else []),
        (6, message((1, 3), (2, 301))),
        (7, number),
        *[(8, event) for event in events],
        *of_pruned,
    )


def records():
    found = hexes(text("crates/engine/tests/engine/golden.rs"))
    events = [event for event in found if event.startswith(b"\x08\x01\x10")]
    for number, event in enumerate(events):
        seed("record", f"event-{number:02}", event)
    return events


def log(events):
    seed("frame", "one-event", frame(1, events[:1]))
    seed("frame", "three-events", frame(2, events[1:4]))
    seed("frame", "pruned", frame(1, [b"", events[1]], pruned=[0]))
    header = b"CLOAKLOG" + struct.pack("<IQQQQ", 1, 1, 1, 0, 0) + bytes(32)
    header += struct.pack("<I", crc32c(header))
    body = frame(1, events[:2])
    length = struct.pack("<I", len(body))
    block = length + struct.pack("<I", crc32c(length + body)) + body
    seed("segment", "file", b"\x00" + header + block)
    seed("segment", "durable", b"\x02" + header + block)
    seed("segment", "torn", b"\x00" + header + block + block[:30])
    seed("segment", "bodies", b"\x01" + parts(body))
    seed("segment", "pruned-body", b"\x01" + parts(frame(1, [b"", events[1]], pruned=[0])))


def tree():
    page = text("crates/crypto/src/page.rs").split("let sealed = hex!(")[1].split(")")[0]
    seed("tree_node", "page", bytes.fromhex("".join(re.findall("[0-9a-f]{2,}", page))))
    state = message(
        (1, 1), (2, b"\xaa" * 16), (3, message((1, b"\xbb" * 16), (2, 300))), (4, 7), (5, 5),
        (6, b"\xcc" * 16), (7, b"\1\2\3"), (8, message((1, b"\xdd" * 16), (2, 9))), (9, 4),
    )
    seed("tree_node", "state", state)
    seed("tree_node", "state-moved", state + message((10, "tpm"), (11, "tpm-nv"),
         (12, message((1, "file"), (2, b"\xee" * 16), (3, b"\4"))), (13, "overwritten")))


def tokens():
    letters = "abcdefghijklmnopqrstuvwxyz"
    for prefix in ["tok_", "sub_", "era_", "prg_"]:
        seed("token", prefix.strip("_"), prefix + "a" * 26)
    seed("token", "letters", "tok_" + letters)
    seed("token", "email", "a" * 26 + "@tokens.example")
    seed("token", "phone", "+999123456789")
    seed("token", "uuid", "00000000-0000-4000-8000-000000000000")


def bus():
    bodies = {
        "Purge": ("cloakroom.acme.erasure.v1", message((1, 1), (2, "p1"), (3, "t1"), (6, 9))),
        "Notice": ("cloakroom.acme.notice.v1", message((1, 1), (2, 1), (3, "t1"), (4, 2))),
        "Ack": ("cloakroom.acme.ack.v1", message((1, 1), (2, "p1"), (4, "mail"), (5, 3))),
        "Checkpoint": ("cloakroom.checkpoint.v1", message((1, 1), (2, "x"), (15, "signed"))),
        "DeadLetter": ("cloakroom.dead-letter.v1", message((1, 1), (2, "mail"))),
    }
    for kind, (topic, value) in bodies.items():
        headers = {
            "ce_id": "p1", "ce_source": "cloakroom/x", "ce_specversion": "1.0",
            "ce_time": "2025-06-15T15:06:40.123Z", "ce_type": f"cloakroom.bus.v1.{kind}",
            "content-type": "application/protobuf", "traceparent": "00-" + "1" * 32 + "-" + "2" * 16 + "-01",
        }
        flat = [piece.encode() for pair in headers.items() for piece in pair]
        seed("bus_record", kind.lower(), parts(topic.encode(), b"t1", value, *flat))


def proofs():
    root = "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc="
    checkpoint = f"cloakroom/x\n20852163\n{root}\n"
    seed("checkpoint", "text", checkpoint)
    seed("checkpoint", "extended", checkpoint + "later 1\n")
    note = re.search(r'const NOTE: &str = "(.*?)";', text("crates/crypto/src/note.rs"), re.S).group(1)
    signature = "x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM="
    assert signature in note
    seed("checkpoint", "note", f"{checkpoint}\n\u2014 cloakroom/x {signature}\n")
    for name, path in {"tile": "0/x001/234", "partial": "1/067.p/8", "entries": "entries/000"}.items():
        seed("checkpoint", name, path)
    token = text("services/cli/tests/certificate.jws").strip()
    keys = text("services/cli/tests/keys.jwks").strip()
    seed("certificate", "golden", "\1" + token)
    seed("certificate", "keys", "\2" + keys)
    claims = token.split(".")[1]
    claims = json.loads(base64.urlsafe_b64decode(claims + "=" * (-len(claims) % 4)))
    seed("certificate", "claims", "\0" + json.dumps(claims, separators=(",", ":")))
    inclusion = {"index": 2, "hash": "07" * 32, "path": ["08" * 32]}
    claims["proof"] = {
        "checkpoint": f"{checkpoint}\n\u2014 cloakroom/x {signature}\n",
        "fence": inclusion,
        "destroyed": {**inclusion, "index": 5},
    }
    seed("certificate", "claims-proven", b"\0" + json.dumps(claims, separators=(",", ":")).encode())


def files():
    registers = sorted((ROOT / "examples/registers").glob("*/register.toml"))
    for register in registers:
        if register.stat().st_size < 6000:
            seed("register", register.parent.name, register.read_bytes())
    whole = [line for line in text("examples/orders/map.toml").splitlines() if not line.startswith("#")]
    orders = (ROOT / "examples/orders/orders.csv").read_bytes().splitlines(keepends=True)
    seed("csv_import", "orders", parts("\n".join(whole).encode(), b"".join(orders[:4])))
    small = 'version=1\ncontroller="c"\n[columns]\nkeep=["n"]\ndrop=["x"]\n[subject]\nidentified_by="e"\n'
    small += 'compare="email"\n[[token]]\ncolumn="e"\nactivity="a"\nfield="email"\nshape="email"\n'
    small += 'when={column="n",is=["1"]}\n'
    seed("csv_import", "small", parts(small.encode(), b'n,e,x\r\n1,"a@b\n.example",\n2,c,d,e\n'))


def requests():
    erase = {"controller": "c", "subject_id": "sub_a", "activities": ["a"], "actor": "dsr:1",
             "reason": "r", "legal_basis": "CONSENT_WITHDRAWN", "idempotency_key": "k"}
    preview = {"controller": "c", "token": "tok_a", "activities": []}
    seed("http_body", "request", parts(b"\0", b"", json.dumps(erase).encode()))
    seed("http_body", "preview", parts(b"\1", b"", json.dumps(preview).encode()))
    query = b"controller=c&state=PROPAGATING&overdue=true&page_size=10&page_token=x"
    seed("http_body", "erasures", parts(b"\2", query, b""))
    seed("http_body", "downstreams", parts(b"\3", b"controller=c%20d", b""))
    seed("http_body", "apply", parts(b"\4", b"dry_run=true", b"version = 1"))
    seed("http_body", "register", parts(b"\5", b"", b"version = 1"))


if __name__ == "__main__":
    log(records())
    tree()
    tokens()
    bus()
    proofs()
    files()
    requests()
