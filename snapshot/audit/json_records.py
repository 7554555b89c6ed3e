"""One event record's bytes judged as docs/events.md says, with the standard library's JSON."""

from __future__ import annotations

import json
import math
from typing import Any

from tenuto.features.events import MAX_INT, Event, Field

MAX_NESTING = 200
# Longer integers than any range allows; Python refuses to parse some of them.
_MAX_DIGITS = 1_000
_MISSING: dict[type, Any] = {int: -1, float: math.nan, str: "", bool: False}


class NotJSONError(ValueError):
    """Bytes that are not one JSON value."""


def event_fields(event: Event, value: bytes) -> dict[str, Any] | str:
    """All declared fields of a record, defaults filled in; or the reason for which it is refused.

    Of a field given twice the last counts, and the others must be allowed too.
    """
    try:
        pairs = _parsed(value)
    except (NotJSONError, ValueError, RecursionError):
        return "malformed"
    if not isinstance(pairs, _Pairs):
        return "malformed"
    given = dict(pairs)
    if "v" in given and not _is_known_version(given["v"], event.version):
        return "version"
    fields: dict[str, Any] = {}
    for name, field in event.all_fields.items():
        if name not in given:
            if field.required:
                return "field"
            fields[name] = _default(field)
        elif not _is_allowed(field, given[name]):
            return "field"
        else:
            found = given[name]
            fields[name] = _default(field) if found is None else field.type(found)
    for name, found in pairs:
        if name == "v" and not _is_known_version(found, event.version):
            return "malformed"
        declared = event.all_fields.get(name) if len(pairs) > len(given) else None
        if declared is not None and not _is_allowed(declared, found):
            return "malformed"
    return fields


class _Pairs(list[tuple[str, Any]]):
    """A JSON object, names as often as they are given."""


def _parsed(value: bytes) -> Any:
    text = value.decode()
    if len(value) > 2 * MAX_NESTING and _depth(text) > MAX_NESTING:
        raise NotJSONError("nested too deep")
    parsed = _decode(text)
    if "\\u" in text and _has_lone_surrogate(parsed):
        raise NotJSONError("a lone surrogate")
    return parsed


def _no_constant(name: str) -> Any:
    raise NotJSONError(f"{name} is no JSON")


def _integer(digits: str) -> int | float:
    return int(digits) if len(digits) <= _MAX_DIGITS else math.inf


_decode = json.JSONDecoder(
    object_pairs_hook=_Pairs, parse_int=_integer, parse_constant=_no_constant
).decode


def _depth(text: str) -> int:
    deepest = depth = 0
    in_string = escaped = False
    for character in text:
        if in_string:
            if escaped:
                escaped = False
            elif character == "\\":
                escaped = True
            elif character == '"':
                in_string = False
        elif character == '"':
            in_string = True
        elif character in "[{":
            depth += 1
            deepest = max(deepest, depth)
        elif character in "]}":
            depth -= 1
    return deepest


def _has_lone_surrogate(parsed: Any) -> bool:
    waiting = [parsed]
    while waiting:
        at = waiting.pop()
        if isinstance(at, list | tuple):
            waiting += at
        elif isinstance(at, str) and any(0xD800 <= ord(c) <= 0xDFFF for c in at):
            return True
    return False


def _is_known_version(found: Any, newest: int) -> bool:
    return type(found) is int and 1 <= found <= newest


def _is_allowed(field: Field, found: Any) -> bool:
    if found is None:
        return not field.required
    if field.type is bool:
        return found is True or found is False
    if field.type is str:
        most = math.inf if field.max_length is None else field.max_length
        return type(found) is str and field.min_length <= len(found) <= most
    low = -math.inf if field.ge is None else field.ge
    high = math.inf if field.le is None else field.le
    if field.type is int:
        low = -MAX_INT if field.ge is None else field.ge
        high = MAX_INT if field.le is None else field.le
        return type(found) is int and low <= found <= high
    if type(found) is int:
        try:
            found = float(found)
        except OverflowError:
            return False
    return type(found) is float and math.isfinite(found) and low <= found <= high


def _default(field: Field) -> Any:
    return _MISSING[field.type] if field.default is None else field.default
