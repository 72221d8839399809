"""A client written against the .proto files alone, and a reader of openapi.json.

Makes its stubs with grpcio-tools, tokenizes, reads and erases with development certificates, then calls every
HTTP operation and holds each answer to the schema that the document gives it.
"""

import argparse
import http.client
import json
import ssl
import sys
import time
from pathlib import Path

import grpc
from grpc_tools import protoc
from jwcrypto import jwk, jws
from jwcrypto.common import JWException
from jsonschema import Draft202012Validator
from openapi_spec_validator import validate
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012


def arguments():
    parser = argparse.ArgumentParser()
    for name in ["proto", "generated", "certs"]:
        parser.add_argument(f"--{name}", type=Path, required=True)
    for name in ["vault", "admin", "controller"]:
        parser.add_argument(f"--{name}", required=True)
    return parser.parse_args()


def generate(given):
    files = [str(given.proto / f"cloakroom/{name}/v1/{name}.proto") for name in ["vault", "admin"]]
    out = str(given.generated)
    code = protoc.main(["protoc", f"-I{given.proto}", f"--python_out={out}", f"--grpc_python_out={out}", *files])
    assert code == 0, "the .proto files do not compile"
    sys.path.insert(0, out)


def channel(given, address, name):
    read = lambda file: (given.certs / file).read_bytes()
    credentials = grpc.ssl_channel_credentials(read("ca.pem"), read(f"{name}.key"), read(f"{name}.pem"))
    return grpc.secure_channel(address, credentials, [("grpc.ssl_target_name_override", "localhost")])


def over_grpc(given):
    from cloakroom.admin.v1 import admin_pb2, admin_pb2_grpc
    from cloakroom.vault.v1 import vault_pb2, vault_pb2_grpc

    shop = vault_pb2_grpc.VaultServiceStub(channel(given, given.vault, "orders"))
    officer = admin_pb2_grpc.AdminServiceStub(channel(given, given.admin, "dpo"))
    value = "zoë@example.com".encode()
    item = vault_pb2.TokenizeItem(reference="1", new_subject="buyer", field="email", value=value)
    answer = shop.Tokenize(vault_pb2.TokenizeRequest(controller=given.controller, activity="sales", items=[item]))
    made = answer.items[0].tokenized
    assert made.token.startswith("tok_"), answer.items[0].error.message

    def read():
        asked = vault_pb2.DetokenizeItem(reference="1", token=made.token)
        request = vault_pb2.DetokenizeRequest(
            controller=given.controller, purpose="selling", mode=vault_pb2.READ_MODE_PLAIN, items=[asked]
        )
        return shop.Detokenize(request).items[0]

    assert read().value == value
    request = admin_pb2.RequestErasureRequest(
        controller=given.controller,
        subject_id=made.subject_id,
        actor="dsr-1",
        legal_basis=admin_pb2.LEGAL_BASIS_OBJECTION,
    )
    erased = officer.RequestErasure(request)
    assert len(erased.subject_salt) == 64
    assert read().error.code == vault_pb2.ERROR_CODE_ERASED
    try:
        shop.Tokenize(vault_pb2.TokenizeRequest(controller="nobody", items=[item]))
        raise AssertionError("a foreign controller was served")
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.PERMISSION_DENIED, error
    return made.subject_id, erased.erasure.erasure_id


class Http:
    def __init__(self, given, name):
        context = ssl.create_default_context(cafile=given.certs / "ca.pem")
        context.load_cert_chain(given.certs / f"{name}.pem", given.certs / f"{name}.key")
        context.check_hostname = False
        host, port = given.admin.rsplit(":", 1)
        self.connection = http.client.HTTPSConnection(host, int(port), context=context, timeout=60)

    def ask(self, method, path, body=None):
        self.connection.request(method, path, body=body)
        answer = self.connection.getresponse()
        return answer.status, answer.headers.get_content_type(), answer.read()


def over_jose(officer, erasure_id):
    """The certificate is verified by a JOSE library, against the key set, and no other token is."""
    certificate = officer.ask("GET", f"/v1/erasures/{erasure_id}/certificate")[2].decode()
    keys = jwk.JWKSet.from_json(officer.ask("GET", "/.well-known/jwks.json")[2].decode())

    def verified(token):
        read = jws.JWS()
        read.deserialize(token)
        read.verify(keys)
        return read

    read = verified(certificate)
    assert json.loads(read.objects["protected"])["typ"] == "erasure-certificate+jwt"
    said = json.loads(read.payload)
    assert said["erasure_id"] == erasure_id and said["proof"]["fence"]["index"] == said["log"]["index"]
    header, payload, signature = certificate.split(".")
    try:
        verified(f"{header}.{payload[:-1]}{'A' if payload[-1] != 'A' else 'B'}.{signature}")
        raise AssertionError("a changed certificate was verified")
    except JWException:
        pass


def over_http(given, subject_id, erasure_id):
    officer = Http(given, "admin")
    status, _, body = officer.ask("GET", "/openapi.json")
    assert status == 200
    document = json.loads(body)
    validate(document)
    registry = Registry().with_resource(
        "urn:openapi", Resource.from_contents(document, default_specification=DRAFT202012)
    )
    deadline = time.monotonic() + 60
    while officer.ask("GET", f"/v1/erasures/{erasure_id}/certificate")[0] != 200:
        assert time.monotonic() < deadline, "never certified"
        time.sleep(0.01)
    over_jose(officer, erasure_id)
    register = json.loads(officer.ask("GET", f"/v1/registers/{given.controller}")[2])["toml"]
    who = {"controller": given.controller, "subject_id": subject_id}
    bodies = {
        ("post", "/v1/erasures"): json.dumps({**who, "actor": "dsr-1", "reason": "", "legal_basis": "OBJECTION"}),
        ("post", "/v1/erasures/preview"): json.dumps(who),
        ("post", "/v1/registers"): register.encode(),
        ("post", "/v1/restore"): json.dumps({"dry_run": True}),
    }
    called = 0
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            wanted = [p["name"] for p in operation.get("parameters", []) if p["in"] == "query" and p.get("required")]
            query = "?controller=" + given.controller if wanted == ["controller"] else ""
            concrete = path.replace("{erasure_id}", erasure_id).replace("{controller}", given.controller) + query
            concrete = concrete.replace("{level}", "0").replace("{tile}", "000.p/1")
            for caller in [officer, Http(given, "stranger")]:
                status, kind, body = caller.ask(method.upper(), concrete, bodies.get((method, path)))
                place = "#/paths/" + path.replace("~", "~0").replace("/", "~1") + f"/{method}/responses/{status}"
                said = operation["responses"][str(status)]
                if "$ref" in said:
                    place = said["$ref"]
                    said = document["components"]["responses"][place.rsplit("/", 1)[1]]
                assert kind in said["content"], f"{method} {path}: {status} came as {kind}"
                place += "/content/" + kind.replace("/", "~1") + "/schema"
                shown = json.loads(body) if "json" in kind else body.decode("latin-1")
                schema = {"$ref": "urn:openapi" + place}
                for error in Draft202012Validator(schema, registry=registry).iter_errors(shown):
                    raise AssertionError(f"{method} {path}: {status}: {error.json_path} breaks {error.validator}")
                moves = (path, status) == ("/v1/keys/move", 409)  # nothing is configured to move to
                assert caller is not officer or moves or status in (200, 201), f"{method} {path}: {status}"
            called += 1
    assert called == 23, called


given = arguments()
generate(given)
over_http(given, *over_grpc(given))
print("all held")
