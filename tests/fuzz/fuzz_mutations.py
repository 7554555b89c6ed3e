"""Hostile variations of valid inputs: of bytes, of JSON and of MessagePack, by a seeded generator.

Structure first: a value deep inside is exchanged, doubled or removed, and the rest stays valid, so
that what is behind a decoder's first check is reached too.
"""

from __future__ import annotations

import json
import struct
from random import Random
from typing import Any

INTEGERS = [
    0, 1, -1, 127, 128, 255, 256, 2**15, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**48,
    2**48 + 1, 2**53, 2**53 + 1, 2**62, 2**63 - 1, 2**63, 2**64 - 1, 2**64, -(2**31),
    -(2**48) - 1, -(2**63),
    -(2**63) - 1, 10**30, 1_650_000_000_000,
]  # fmt: skip
FLOATS = [0.5, -0.0, 1e-320, 1e308, -1e308, 3.0]
TEXTS = [
    "", " ", "\0", "a\0b", "é", "e\u0301", "\u202eabc", "\ufeff", "\uffff", "\U0001f3b5" * 3,
    "x" * 300, "../../etc/passwd", "/etc/passwd", "..\\x", "null", "NaN", "-1", "1e5", "%s%n", "{}",
    "\n", "١٢٣", "²", "__class__", "a" * 70_000,
]  # fmt: skip
TOKENS = [
    b"\0", b"\xff", b"\xed\xa0\x80", b"\xc0\x80", b"\xf4\x90\x80\x80", b"\xe2\x80\xae", b'"', b"\\",
    b"\\ud800", b"\\u0000", b"{", b"[", b"}", b"]", b"[" * 5_000, b'{"a":' * 5_000, b"NaN",
    b"Infinity",
    b"1e999", b"-", b"9" * 400, b"9" * 5_000, b",", b":", b"\r\n", b"\n", b"null",
    b"\xdd\xff\xff\xff\xff",
    b"\xdf\xff\xff\xff\xff", b"\xdb\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff", b"\x91" * 5_000,
    b"\x81\xa1a" * 3_000, b"\xc1", b"\xd6\xff\0\0\0\0", b"\x1f\x8b\x08", b"PAR1",
]  # fmt: skip


class Raw(str):
    """Stands in a JSON value as it is, valid or not."""

    __slots__ = ()


RAWS = [
    "NaN", "Infinity", "-Infinity", "1e999", "1.0", "1E2", "01", "+1", "-", "-0", "0x1f",
    "True", "9" * 400, "9" * 5_000, "-" + "9" * 5_000, "1." + "0" * 5_000, '"\\ud800"',
    '"\\udc00x"',
    '"\\u0000"', '"\\x"', "[" * 100_000, "[" * 150 + "]" * 150, "[" * 400 + "]" * 400,
    '{"a":' * 150 + "1" + "}" * 150,
    '{"a":' * 30_000, "", "[]", "{}", "[1,2]", '{"v":1}', "null", "true", '"', "'a'", "//x",
]  # fmt: skip


class Pairs(list[tuple[str, Any]]):
    """An object whose names may come twice."""


def mutated_bytes(rng: Random, data: bytes, *, most: int = 3) -> bytes:
    """``data`` after a few edits that know nothing of what it means."""
    found = bytearray(data)
    for _ in range(rng.randint(1, most)):
        at = rng.randrange(len(found) + 1)
        span = min(1 << rng.randrange(8), 1 + len(found) // 2)
        match rng.randrange(9):
            case 0 if found:
                found[at % len(found)] ^= 1 << rng.randrange(8)
            case 1 if found:
                found[at % len(found)] = rng.choice([0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)])
            case 2:
                del found[at : at + span]
            case 3:
                found[at:at] = found[at : at + span] * rng.choice([1, 1, 2, 50])
            case 4:
                found[at:at] = rng.randbytes(rng.choice([1, 2, 4, 8, 33]))
            case 5:
                del found[at:]
            case 6:
                other = rng.randrange(len(found) + 1)
                found[at : at + span] = found[other : other + span]
            case 7:
                width = rng.choice(["<i", ">i", "<q", ">q", ">h", "<H"])
                size = 8 * struct.calcsize(width)
                number = rng.choice(INTEGERS) % 2**size
                number -= 2**size if width[1].islower() and number >= 2 ** (size - 1) else 0
                found[at : at + size // 8] = struct.pack(width, number)
            case _:
                found[at:at] = rng.choice(TOKENS)
    return bytes(found)


def any_value(rng: Random, *, json_text: bool = False) -> Any:
    """A value of a type that was not expected, or at the end of its range."""
    kind = rng.randrange(9 if json_text else 8)
    if kind <= 1:
        return rng.choice(INTEGERS)
    if kind == 2:
        return rng.choice([*FLOATS, float("nan"), float("inf"), float("-inf")])
    if kind <= 4:
        return rng.choice(TEXTS)
    if kind == 5:
        return rng.choice([None, True, False])
    if kind == 6:
        return rng.choice([[], {}, [1], [None] * 300, {"a": 1}, [["a", "b"]]])
    if kind == 7:
        return _nested(rng.choice([3, 60, 250]), rng.random() < 0.5)
    return Raw(rng.choice(RAWS))


def mutated_tree(rng: Random, tree: Any, *, json_text: bool = False, most: int = 2) -> Any:
    """A copy of a tree of dicts and lists with a few places changed."""
    for _ in range(rng.randint(1, most)):
        tree = _at_some_place(rng, tree, json_text)
    return tree


def json_bytes(value: Any) -> bytes:
    """JSON, or what pretends to be, of a mutated tree."""
    return _json(value).encode("utf-8", "surrogatepass")


def _at_some_place(rng: Random, tree: Any, json_text: bool) -> Any:
    if not isinstance(tree, dict | list) or not tree or rng.random() < 0.04:
        return any_value(rng, json_text=json_text)
    if isinstance(tree, Pairs):
        return tree
    if isinstance(tree, list):
        copy = list(tree)
        at = rng.randrange(len(copy))
        match rng.randrange(6):
            case 0:
                del copy[at]
            case 1:
                copy[at:at] = [copy[at]] * rng.choice([1, 2, 300])
            case _:
                copy[at] = _at_some_place(rng, copy[at], json_text)
        return copy
    changed = dict(tree)
    name = rng.choice(list(changed))
    match rng.randrange(8):
        case 0:
            del changed[name]
        case 1 if json_text:
            other = any_value(rng, json_text=True)
            twice = [*changed.items()]
            twice.insert(rng.randrange(len(twice) + 1), (name, other))
            return Pairs(twice)
        case 2:
            changed[rng.choice(TEXTS)[:300]] = any_value(rng, json_text=json_text)
        case _:
            changed[name] = _at_some_place(rng, changed[name], json_text)
    return changed


def _nested(depth: int, as_map: bool) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = {"a": value} if as_map else [value]
    return value


def _json(value: Any) -> str:
    if isinstance(value, Raw):
        return str(value)
    if isinstance(value, Pairs):
        return "{" + ",".join(f"{json.dumps(k)}:{_json(v)}" for k, v in value) + "}"
    if isinstance(value, dict):
        return "{" + ",".join(f"{json.dumps(k)}:{_json(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(_json, value)) + "]"
    return json.dumps(value)
