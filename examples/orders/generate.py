#!/usr/bin/env python3
"""Writes the order export of an invented ticketing company: the same bytes for the same arguments, always.

    generate.py [--rows N] [-o FILE]    write N rows (2,500 if not said) to FILE or standard output
    generate.py --check FILE            fail unless FILE is what would be written

Nobody in it exists: domains are reserved (RFC 2606), telephone numbers too (see people.py). What the
strange and the broken rows are is told in README.md. A longer file begins with the shorter one's rows, and
strange and broken rows come again in every 2,500.
"""

import argparse
import io
import random
import sys
import unicodedata

from people import LANGUAGES, PHONES, STRANGE_NAMES

COLUMNS = [
    "order_id", "event", "event_date", "name", "email", "phone", "birth_date", "address",
    "amount", "currency", "affiliate_code", "newsletter",
]
ROWS = 2_500
SEED = 20_260_000

EVENTS = [
    ("Lantern Lake Festival", "2027-07-09"), ("Nachtmuziek in de Kas", "2027-05-22"), ("Ópera en la Azotea", "2027-06-18"),
    ("The Paper Moons: Farewell Tour", "2027-03-12"), ("La Notte dei Violini", "2027-09-03"),
    ("Büchersommer Slam", "2027-08-14"), ("Fête du Demi-Jour", "2027-06-21"), ("Vinterlys", "2027-12-04"),
    ("Comedy \"Half Past\" Gala", "2027-02-27"), ("夜の水族館コンサート", "2027-10-16"), ("Кинопикник", "2027-07-31"),
    ("Derby, Women's Final", "2027-05-08"), ("مهرجان الفوانيس", "2027-04-17"), ("Gilded Cage (matinée)", "2027-11-20"),
]
AFFILIATES = [
    "AFF-NIGHTOWL", "AFF-STAGEDOOR", "AFF-CITYPASS", "AFF-BLOG-17", "AFF-STUDENTS", "AFF-RADIO-9", "AFF-MATINEE", "AFF-FANCLUB",
]
DOMAINS = [
    "example.com", "example.org", "example.net", "mail.example", "correo.example", "post.example.org", "inbox.example.com",
    "tickets.test",
]
# Addresses in other scripts (RFC 6531), under a reserved name.
WIDE_DOMAINS = {"ja": "例え.example", "zh": "例子.example", "el": "παράδειγμα.example", "ru": "пример.example"}

# Letters that lose nothing but an accent when spelt in ASCII, but do not decompose.
SPELT = str.maketrans({
    "ø": "o", "Ø": "O", "å": "a", "æ": "ae", "Æ": "Ae", "œ": "oe", "Œ": "Oe", "ß": "ss", "ł": "l", "Ł": "L", "ı": "i",
    "ð": "d", "_": "",
})


class Dice:
    """Chance that is the same under every version of Python: only `random()` promises that."""

    def __init__(self, seed):
        self._random = random.Random(seed).random

    def below(self, limit):
        return int(self._random() * limit)

    def pick(self, choices):
        return choices[self.below(len(choices))]

    def percent(self, chance):
        return self._random() * 100 < chance


class Buyer:
    """Somebody who may buy again."""

    def __init__(self, name, email, phone, birth_date, address, currency, newsletter):
        self.name = name
        self.email = email
        self.phone = phone
        self.birth_date = birth_date
        self.address = address
        self.currency = currency
        self.newsletter = newsletter


# The first rows are the same people in every story that is told with this file: row 7 is row 1's buyer
# again, who types her address in capitals.
FIRST = [
    Buyer("Siobhán O’Dowd", "siobhan.odowd@example.com", "+44 7700 900461", "1988-04-17", "12 Lantern Street, Galway", "GBP", "yes"),
    Buyer("Iñaki Ordóñez Núñez", "inaki@correo.example", "+44 7700 900118", "1979-11-02", "Calle del Telón 3, 24001 Gijón", "EUR", "no"),
    Buyer("髙橋 さくら", "さくら@例え.example", "", "1994-08-30", "〒60008 京都市舞台町7", "JPY", "yes"),
    Buyer("Jürgen Müller-Lüdenscheidt", "j.mueller@example.org", "+49 30 23125 044", "", "Bühnenstraße 9, 50667 Köln", "EUR", ""),
    Buyer("ليلى الحدّاد", "layla.alhaddad@example.net", "+44 7700 900733", "2001-01-09", "", "EUR", "yes"),
    Buyer("X", "x@tickets.test", "", "", "", "GBP", "no"),
    None,
    Buyer("Giulia D'Angelo", "giulia+concerti@example.com", "+44 7700 900290", "1990-12-12", "Via del Sipario 31, 10121 Torino", "EUR", "yes"),
    Buyer("Zoë van 't Hoff", "zoe@post.example.org", "+44 7700 900007", "1968-06-25", "Toneellaan 100\n3511 AA Utrecht", "EUR", "no"),
    Buyer("Łukasz Brzęczyszczykiewicz", "lukasz.b@mail.example", "+44 7700 900555", "1985-03-03", "ul. Biletowa 4, 31002 Kraków", "PLN", "yes"),
]
FIRST_AFFILIATES = {1: "AFF-NIGHTOWL", 5: "AFF-RADIO-9", 7: "AFF-NIGHTOWL", 8: "AFF-BLOG-17"}

# Where in every 2,500 rows something is wrong, and what. Rows are counted from 1, without the header.
BROKEN = {
    83: "too few columns",
    244: "too many columns",
    391: "one column",
    612: "name not UTF-8",
    805: "address not UTF-8",
    1007: "event not UTF-8",
    1203: "card number as name",
    1404: "card number as phone",
    1666: "NUL in name",
    1871: "e-mail without domain",
    2099: "birth date that is none",
    2333: "phone in words",
}
STRANGE_FIRST, STRANGE_STEP = 40, 53


def ascii_letters(text):
    plain = unicodedata.normalize("NFKD", text.translate(SPELT)).encode("ascii", "ignore").decode()
    return "".join(letter for letter in plain.lower() if letter.isalnum())


def phone_number(dice, country):
    start, digits, _source = PHONES[country]
    return start + str(dice.below(10**digits)).zfill(digits)


def birth_date(dice):
    return f"{1938 + dice.below(71)}-{1 + dice.below(12):02}-{1 + dice.below(28):02}"


def new_buyer(dice, languages, number):
    key = dice.pick(languages)
    language = LANGUAGES[key]
    given, _, given_latin = dice.pick(language.given).partition("=")
    family, _, family_latin = dice.pick(language.family).partition("=")
    given = given.replace("_", " ")
    parts = (family, given) if language.family_first else (given, family)
    name = language.joint.join(parts)
    local = f"{ascii_letters(given_latin or given)}.{ascii_letters(family_latin or family)}{number}"
    email = f"{local}@{dice.pick(DOMAINS)}"
    if key in WIDE_DOMAINS and dice.percent(25):
        email = f"{given}{number}@{WIDE_DOMAINS[key]}"
    address = language.address.format(
        street=dice.pick(language.streets), number=1 + dice.below(180), code=f"{10_000 + dice.below(89_999)}",
        town=dice.pick(language.towns),
    )
    return Buyer(
        name="" if dice.percent(0.5) else name,
        email="" if dice.percent(0.6) else email,
        phone="" if dice.percent(15) else phone_number(dice, dice.pick(language.phones)),
        birth_date="" if dice.percent(25) else birth_date(dice),
        address="" if dice.percent(10) else address,
        currency=language.currency,
        newsletter="" if dice.percent(8) else "yes" if dice.percent(38) else "no",
    )


def retyped(dice, email):
    """The same address as people type it the next time."""
    if not email or dice.percent(75):
        return email
    local, _, domain = email.partition("@")
    return dice.pick([email.upper(), f"{local.capitalize()}@{domain}", f"{local}@{domain.capitalize()}", f" {email}", f"{email} "])


def amount(dice, currency):
    euros = dice.pick([1200, 1850, 2400, 3250, 4500, 5900, 7750, 11900]) * dice.pick([1, 1, 2, 2, 2, 3, 4, 6])
    if currency == "JPY":
        return str(euros * 17 // 10 * 10)
    return f"{euros // 100}.{euros % 100:02}"


def orders(count):
    """Yields `count` orders as lists of text, in the order of COLUMNS."""
    dice = Dice(SEED)
    languages = [key for key, language in LANGUAGES.items() for _ in range(language.weight)]
    buyers = []
    for number in range(1, count + 1):
        in_block = (number - 1) % ROWS + 1
        again = bool(buyers) and dice.percent(30)
        event, event_date = dice.pick(EVENTS)
        affiliate = dice.pick(AFFILIATES) if dice.percent(12) else ""
        if number <= len(FIRST):
            buyer = FIRST[number - 1] or FIRST[0]
            email = buyer.email if FIRST[number - 1] else buyer.email.upper()
            affiliate = FIRST_AFFILIATES.get(number, "")
            buyers.append(buyer)
        elif again:
            buyer = buyers[dice.below(len(buyers))]
            email = retyped(dice, buyer.email)
        else:
            buyer = new_buyer(dice, languages, number)
            email = buyer.email
            buyers.append(buyer)
        name = buyer.name
        strange, rest = divmod(in_block - STRANGE_FIRST, STRANGE_STEP)
        if rest == 0 and 0 <= strange < len(STRANGE_NAMES):
            name = STRANGE_NAMES[strange]
        yield [
            f"ST-27-{number:06}", event, event_date, name, email, buyer.phone, buyer.birth_date, buyer.address,
            amount(dice, buyer.currency), buyer.currency, affiliate, buyer.newsletter,
        ]


def as_csv(fields):
    """One record as RFC 4180 has it, but for the line end. (Python's own writer refused NUL until 3.11.)"""
    def quoted(field):
        return '"' + field.replace('"', '""') + '"' if any(mark in field for mark in ',"\r\n') else field

    return (",".join(map(quoted, fields)) + "\n").encode("utf-8")


def broken(fields, what):
    """The row's bytes with one thing wrong."""
    row = dict(zip(COLUMNS, fields))
    replaced = {
        "card number as name": ("name", "4111 1111 1111 1111"),
        "card number as phone": ("phone", "5555555555554444"),
        "NUL in name": ("name", "Nul\0Byte"),
        "e-mail without domain": ("email", "somebody"),
        "birth date that is none": ("birth_date", "1984-02-30"),
        "phone in words": ("phone", "call me maybe"),
    }
    if what in replaced:
        column, value = replaced[what]
        return as_csv([value if name == column else row[name] for name in COLUMNS])
    if what == "too few columns":
        return as_csv(fields[:-1])
    if what == "too many columns":
        return as_csv(fields + ["unexpected"])
    if what == "one column":
        return b"--- page 2 ---\n"
    column = what.removesuffix(" not UTF-8")
    # As a program writes it that believes the file to be Latin-1.
    row[column] = "LATIN-1"
    return as_csv([row[name] for name in COLUMNS]).replace(b"LATIN-1", "Jos\u00e9 \u00d1u\u00f1ez".encode("latin-1"))


def write(count, out):
    out.write(as_csv(COLUMNS))
    for number, fields in enumerate(orders(count), start=1):
        what = BROKEN.get((number - 1) % ROWS + 1)
        out.write(broken(fields, what) if what else as_csv(fields))


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--rows", type=int, default=ROWS, metavar="N")
    arguments.add_argument("-o", dest="out", metavar="FILE")
    arguments.add_argument("--check", metavar="FILE")
    chosen = arguments.parse_args()
    if chosen.check:
        expected = io.BytesIO()
        write(chosen.rows, expected)
        with open(chosen.check, "rb") as file:
            if file.read() != expected.getvalue():
                sys.exit(f"{chosen.check} is not what {sys.argv[0]} writes: run it with -o {chosen.check}")
    elif chosen.out:
        with open(chosen.out, "wb") as file:
            write(chosen.rows, file)
    else:
        write(chosen.rows, sys.stdout.buffer)


if __name__ == "__main__":
    main()
