"""One snapshot record's bytes judged as docs/events.md says, by a MessagePack reader of its own."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from typing import Any

from tenuto.features.events import MAX_ID_LENGTH, MAX_INT, MAX_POSITION, MAX_QUERY_LENGTH

VERSION = 1
MAX_ITEMS = 10_000
MAX_NESTING = 200
_MAX_OFFSET = 2**63 - 1
# Columns that every sample has: a feature named so would be lost in it.
_TAKEN = frozenset(
    (
        "request_id", "user_id", "query", "item_id", "position", "request_ts_ms", "as_of_ms",
        "impressed", "impression_delay_ms", "policy", "slice", "model", "propensity", "weight",
        "snapshot_partition", "snapshot_offset", "item_index", "snapshot_arrival_ms",
    )
)  # fmt: skip
_NUMBERS = {
    0xCA: ">f", 0xCB: ">d", 0xCC: ">B", 0xCD: ">H", 0xCE: ">I", 0xCF: ">Q",
    0xD0: ">b", 0xD1: ">h", 0xD2: ">i", 0xD3: ">q",
}  # fmt: skip
_EXTENSIONS = {0xD4: 1, 0xD5: 2, 0xD6: 4, 0xD7: 8, 0xD8: 16}


class MalformedError(ValueError):
    """Bytes that are not a snapshot's map."""


class Opaque:
    """A value that no known field may have: an extension, or text that is not UTF-8."""


class Pairs(list[tuple[Any, Any]]):
    """A map, keys as often as they are given."""


OPAQUE = Opaque()


def snapshot_fields(value: bytes) -> dict[str, Any] | str:
    """A snapshot's fields, defaults filled in; or the reason for which it is refused."""
    try:
        pairs, end = _read(value, 0, 0)
        if end != len(value):
            raise MalformedError("trailing bytes")
        fields = _typed(pairs, _FIELDS)
    except (MalformedError, struct.error, IndexError):
        return "malformed"
    if not 1 <= fields["v"] <= VERSION:
        return "version"
    return fields if _is_consistent(fields) else "field"


def _read(data: bytes, at: int, depth: int) -> tuple[Any, int]:
    kind = data[at]
    at += 1
    if kind < 0x80:
        return kind, at
    if kind >= 0xE0:
        return kind - 256, at
    if 0xA0 <= kind < 0xC0:
        return _text(data, at, kind & 31)
    if kind < 0x90:
        return _read_map(data, at, kind & 15, depth)
    if kind < 0xA0:
        return _read_array(data, at, kind & 15, depth)
    number = _NUMBERS.get(kind)
    if number is not None:
        return struct.unpack_from(number, data, at)[0], at + struct.calcsize(number)
    if kind in (0xC0, 0xC2, 0xC3):
        return {0xC0: None, 0xC2: False, 0xC3: True}[kind], at
    if kind in _EXTENSIONS:
        return _opaque(data, at + 1 + _EXTENSIONS[kind])
    if kind == 0xC1:
        raise MalformedError("0xc1")
    # All others begin with a length: of one, two or four bytes.
    width = {0xC4: 1, 0xC5: 2, 0xC6: 4, 0xC7: 1, 0xC8: 2, 0xC9: 4, 0xD9: 1, 0xDA: 2, 0xDB: 4,
             0xDC: 2, 0xDD: 4, 0xDE: 2, 0xDF: 4}[kind]  # fmt: skip
    if at + width > len(data):
        raise MalformedError("cut off")
    length = int.from_bytes(data[at : at + width], "big")
    at += width
    if kind <= 0xC6:
        if at + length > len(data):
            raise MalformedError("cut off")
        return data[at : at + length], at + length
    if kind <= 0xC9:
        return _opaque(data, at + 1 + length)
    if kind <= 0xDB:
        return _text(data, at, length)
    read = _read_array if kind <= 0xDD else _read_map
    return read(data, at, length, depth)


def _text(data: bytes, at: int, length: int) -> tuple[Any, int]:
    end = at + length
    if end > len(data):
        raise MalformedError("cut off")
    try:
        return data[at:end].decode(), end
    except UnicodeDecodeError:
        return OPAQUE, end


def _opaque(data: bytes, end: int) -> tuple[Any, int]:
    if end > len(data):
        raise MalformedError("cut off")
    return OPAQUE, end


def _read_array(data: bytes, at: int, length: int, depth: int) -> tuple[Any, int]:
    _check_depth(length, depth)
    found = []
    for _ in range(length):
        value, at = _read(data, at, depth + 1)
        found.append(value)
    return found, at


def _read_map(data: bytes, at: int, length: int, depth: int) -> tuple[Any, int]:
    _check_depth(length, depth)
    found = Pairs()
    for _ in range(length):
        key, at = _read(data, at, depth + 1)
        value, at = _read(data, at, depth + 1)
        found.append((key, value))
    return found, at


def _check_depth(length: int, depth: int) -> None:
    # An empty one holds nothing, and so nests nothing.
    if length and depth + 1 > MAX_NESTING:
        raise MalformedError("nested too deep")


Check = Callable[[Any], Any]


def _int(found: Any) -> int:
    if type(found) is not int:
        raise MalformedError("no integer")
    return found


def _offset(found: Any) -> int:
    if not 0 <= _int(found) <= _MAX_OFFSET:
        raise MalformedError("no offset")
    return int(found)


def _float(found: Any) -> float:
    if type(found) not in (int, float):
        raise MalformedError("no number")
    return float(found)


def _str(found: Any) -> str:
    if type(found) is not str:
        raise MalformedError("no text")
    return found


def _bytes(found: Any) -> bytes:
    if type(found) is not bytes:
        raise MalformedError("no bytes")
    return found


def _list(check: Check) -> Check:
    def checked(found: Any) -> list[Any]:
        if type(found) is not list:
            raise MalformedError("no array")
        return [check(value) for value in found]

    return checked


def _map(check: Check) -> Check:
    def checked(found: Any) -> dict[str, Any]:
        if type(found) is not Pairs:
            raise MalformedError("no map")
        return {_str(key): check(value) for key, value in found}

    return checked


def _or_null(check: Check) -> Check:
    return lambda found: None if found is None else check(found)


def _pair(found: Any) -> tuple[str, str]:
    name, digest = _list(_str)(found) if type(found) is list and len(found) == 2 else (None, None)
    if name is None or digest is None:
        raise MalformedError("no pair")
    return name, digest


def _scalar(found: Any) -> Any:
    if found is not None and type(found) not in (str, bool, int, float):
        raise MalformedError("no context value")
    return found


def _context(found: Any) -> Any:
    return _list(_scalar)(found) if type(found) is list else _scalar(found)


_REQUIRED = object()
_LOG: dict[str, tuple[Check, Any]] = {
    "topics": (_list(_str), _REQUIRED),
    "partitions": (_int, _REQUIRED),
    "incarnations": (_bytes, _REQUIRED),
    "origin": (_list(_offset), _REQUIRED),
    "next": (_list(_offset), _REQUIRED),
    "batches": (_list(_list(_offset)), _REQUIRED),
    "buckets": (_int, 1),
    "read": (_list(_offset), []),
    "differing": (_list(_list(_offset)), []),
}
_FIELDS: dict[str, tuple[Check, Any]] = {
    "request_id": (_str, _REQUIRED),
    "user_id": (_str, _REQUIRED),
    "query": (_str, _REQUIRED),
    "request_ts": (_int, _REQUIRED),
    "as_of": (_int, _REQUIRED),
    "items": (_list(_str), _REQUIRED),
    "columns": (_list(_pair), _REQUIRED),
    "values": (_bytes, _REQUIRED),
    "states": (_bytes, _REQUIRED),
    "layout": (_str, _REQUIRED),
    "log": (lambda found: _typed(found, _LOG), _REQUIRED),
    "v": (_int, VERSION),
    "positions": (_or_null(_list(_int)), None),
    "context": (_map(_context), {}),
    "scores": (_map(_bytes), {}),
    "policy": (_str, ""),
    "slice": (_str, ""),
    "model": (_str, ""),
    "propensity": (_or_null(_float), None),
    "weight": (_float, 1.0),
}


def _typed(pairs: Any, known: dict[str, tuple[Check, Any]]) -> dict[str, Any]:
    """Known fields checked, each time that they are given; unknown ones are ignored."""
    if type(pairs) is not Pairs:
        raise MalformedError("no map")
    fields: dict[str, Any] = {}
    for key, value in pairs:
        if type(key) is not str and key is not OPAQUE:
            raise MalformedError("a key that is no text")
        if key in known:
            fields[key] = known[key][0](value)
    for name, (_, default) in known.items():
        if name not in fields:
            if default is _REQUIRED:
                raise MalformedError(f"no {name}")
            fields[name] = default
    return fields


def _is_consistent(fields: dict[str, Any]) -> bool:
    n, m = len(fields["items"]), len(fields["columns"])
    positions = fields["positions"]
    taken = set(_TAKEN)
    for name, _ in fields["columns"]:
        for column in (name, f"{name}__state"):
            if not name or column in taken or column.startswith("served_"):
                return False
            taken.add(column)
    return (
        n <= MAX_ITEMS
        and len(fields["values"]) == n * m * 4
        and len(fields["states"]) == n * m
        and all(len(score) == 4 * n for score in fields["scores"].values())
        and (
            positions is None
            or (len(positions) == n and all(-1 <= p <= MAX_POSITION for p in positions))
        )
        and 1 <= len(fields["request_id"]) <= MAX_ID_LENGTH
        and 1 <= len(fields["user_id"]) <= MAX_ID_LENGTH
        and len(fields["query"]) <= MAX_QUERY_LENGTH
        and 0 <= fields["request_ts"] <= MAX_INT
        and 0 <= fields["as_of"] <= MAX_INT
        and 0.0 < fields["weight"] < math.inf
        and all(1 <= len(item) <= MAX_ID_LENGTH for item in fields["items"])
    )
