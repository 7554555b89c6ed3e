"""Values of a log's columns, whole columns at a time: text or typed in, the declared type out.

Nothing is guessed: an id stays the text it is ("007"), a number must be one, and each value that
does not fit is marked, so that the caller can name its row. Empty text, null and NaN mean absent.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tenuto.drive.mapping import LogColumn
from tenuto.features.events import MAX_INT, Field

_WHOLE = r"^[+-]?[0-9]{1,18}$"
_WHOLE_AS_FLOAT = r"^[+-]?[0-9]+(\.[0-9]*)?([eE][+-]?[0-9]{1,3})?$"
_ZONE = r"([zZ]|[+-][0-9]{2}:?[0-9]{2})$"
_TEXT = pa.large_string()


@dataclass(frozen=True, slots=True)
class Converted:
    """A column of the declared type.

    Attributes:
        values: int64, float64, bool or large_string; null where absent or bad.
        bad: ``(rows,) bool``, true where a value is there and does not fit.
    """

    values: pa.Array
    bad: np.ndarray


def convert(raw: pa.Array, column: LogColumn) -> Converted:
    """Read ``raw`` (any type; CSV gives binary) as the type, unit and range of ``column``."""
    one = column.field
    if one.type is str:
        values, bad = _text(raw, one)
    elif one.type is bool:
        values, bad = _boolean(raw)
    else:
        numbers = _numbers(raw) if one.type is float else _whole(raw, column.file.unit)
        values, bad = _in_range(*numbers, one)
    if column.role == "base" and one.required:
        bad = bad | _mask(pc.is_null(values))
    return Converted(_keep(values, ~bad) if bad.any() else values, bad)


def expected(column: LogColumn) -> str:
    """What a value of ``column`` must be, for the message that refuses one."""
    one = column.field
    if one.type is str:
        longest = f" of at most {one.max_length} characters" if one.max_length else ""
        return f"{'non-empty ' if one.min_length else ''}UTF-8 text{longest}"
    if one.type is bool:
        return "0, 1, false or true"
    if column.file.unit == "iso":
        return "an ISO 8601 time such as 2024-01-01T00:00:00Z"
    what = "a number" if one.type is float or column.file.unit == "s" else "a whole number"
    if column.file.unit == "s":
        what += " of seconds"
    elif column.role in ("base", "event_time") and column.name != "position":
        what += " of milliseconds"
    if one.ge is not None and one.le is not None:
        return f"{what} from {one.ge} to {one.le}"
    return what + (f" ≥ {one.ge}" if one.ge is not None else "")


def shown_value(raw: pa.Array, row: int) -> str:
    """A value as the file has it, for a message: quoted, and cut when long."""
    value = raw[row].as_py()
    text = value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else value
    shown = "empty" if text is None or text == "" else repr(text)
    return shown if len(shown) <= 60 else f"{shown[:57]}…"


def _text(raw: pa.Array, one: Field) -> tuple[pa.Array, np.ndarray]:
    values, bad = as_text(raw)
    if one.required and not one.min_length:
        values = pc.fill_null(values, "")
    else:
        values = _keep(values, _mask(pc.not_equal(values, "")))
    if one.max_length is not None:
        bad = bad | _mask(pc.greater(pc.utf8_length(values), one.max_length))
    return values, bad


def _boolean(raw: pa.Array) -> tuple[pa.Array, np.ndarray]:
    if pa.types.is_boolean(raw.type):
        return raw, np.zeros(len(raw), bool)
    text, bad = as_text(raw)
    text = pc.utf8_lower(pc.utf8_trim_whitespace(text))
    true = pc.is_in(text, pa.array(["1", "true"], _TEXT))
    false = pc.is_in(text, pa.array(["0", "false"], _TEXT))
    absent = pc.or_kleene(pc.is_null(text), pc.equal(text, ""))
    bad = bad | ~(_mask(true) | _mask(false) | _mask(absent))
    values = pc.if_else(pc.or_(true, false), true, pa.scalar(None, pa.bool_()))
    return values, bad


def _numbers(raw: pa.Array) -> tuple[pa.Array, np.ndarray]:
    """float64, null where absent; not finite is bad."""
    if _is_number(raw.type):
        values, bad = pc.cast(raw, pa.float64(), safe=False), np.zeros(len(raw), bool)
    else:
        text, bad = as_text(raw)
        text = pc.utf8_trim_whitespace(text)
        absent = _mask(pc.is_in(text, pa.array(["", "nan", "NaN"], _TEXT)))
        fits = _mask(pc.match_substring_regex(text, _WHOLE_AS_FLOAT)) | _mask(
            pc.match_substring_regex(text, r"^[+-]?\.[0-9]+([eE][+-]?[0-9]{1,3})?$")
        )
        bad = bad | ~(fits | absent | _mask(pc.is_null(text)))
        values = pc.cast(_keep(text, fits), pa.float64())
    values = pc.if_else(pc.is_nan(values), pa.scalar(None, pa.float64()), values)
    return values, bad | _mask(pc.is_inf(values))


def _whole(raw: pa.Array, unit: str) -> tuple[pa.Array, np.ndarray]:
    """int64, null where absent; times and spans come out in milliseconds."""
    if pa.types.is_timestamp(raw.type):
        ms = pc.cast(raw, pa.timestamp("ms", raw.type.tz), safe=False)
        return pc.cast(ms, pa.int64()), np.zeros(len(raw), bool)
    if unit == "iso":
        return _iso(raw)
    if unit == "s":
        seconds, bad = _numbers(raw)
        return _rounded(pc.multiply(seconds, 1000.0), bad)
    if pa.types.is_integer(raw.type):
        large = _mask(pc.greater(raw, 2**62)) if raw.type == pa.uint64() else False
        bad = np.zeros(len(raw), bool) | large
        return pc.cast(_keep(raw, ~bad), pa.int64()), bad
    if _is_number(raw.type):
        values, bad = _numbers(raw)
        return _exact(values, bad)
    text, bad = as_text(raw)
    text = pc.utf8_trim_whitespace(text)
    plain = _mask(pc.match_substring_regex(text, _WHOLE))
    digits = pc.utf8_ltrim(_keep(text, plain), "+")
    whole = pc.cast(digits, pa.int64())
    rest, rest_bad = _exact(*_numbers(_keep(text, ~plain)))
    return pc.coalesce(whole, rest), bad | rest_bad


def _iso(raw: pa.Array) -> tuple[pa.Array, np.ndarray]:
    """Times as text; those without a zone are UTC. Below the millisecond is cut off."""
    text, bad = as_text(raw)
    text = pc.utf8_trim_whitespace(text)
    there = _mask(pc.not_equal(text, ""))
    zoned = _mask(pc.match_substring_regex(text, _ZONE)) & there
    parsed = [
        _parsed(_keep(text, there & ~zoned), pa.timestamp("ns")),
        _parsed(_keep(text, zoned), pa.timestamp("ns", "UTC")),
    ]
    ms = pc.coalesce(*parsed)
    return ms, bad | (there & _mask(pc.is_null(ms)))


def _parsed(text: pa.Array, kind: pa.DataType) -> pa.Array:
    """Epoch ms; null where it cannot be parsed. One at a time only when some cannot."""
    try:
        nanoseconds = pc.cast(pc.cast(text, kind), pa.int64())
    except pa.ArrowInvalid:
        nanoseconds = pa.array([_parsed_one(one, kind) for one in text], pa.int64())
    return pa.array(
        np.floor_divide(pc.fill_null(nanoseconds, 0).to_numpy(zero_copy_only=False), 1_000_000),
        mask=_mask(pc.is_null(nanoseconds)),
    )


def _parsed_one(text: pa.Scalar, kind: pa.DataType) -> int | None:
    try:
        return int(text.cast(kind).value) if text.is_valid else None
    except pa.ArrowInvalid:
        return None


def as_text(raw: pa.Array) -> tuple[pa.Array, np.ndarray]:
    """large_string of any column, and where its bytes are not UTF-8 (null there)."""
    if pa.types.is_floating(raw.type):
        whole, bad = _exact(*_numbers(raw))
        return pc.cast(whole, _TEXT), bad
    try:
        return pc.cast(raw, _TEXT), np.zeros(len(raw), bool)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        decoded = [_decoded(one) for one in raw.to_pylist()]
        bad = np.array([text is None for text in decoded], bool) & _mask(pc.is_valid(raw))
        return pa.array(decoded, _TEXT), bad


def _decoded(value: object) -> str | None:
    try:
        return value.decode("utf-8") if isinstance(value, bytes) else None
    except UnicodeDecodeError:
        return None


def _exact(values: pa.Array, bad: np.ndarray) -> tuple[pa.Array, np.ndarray]:
    """Whole numbers that a float can hold exactly; any other is bad."""
    whole = _mask(pc.equal(values, pc.floor(values))) & _mask(pc.less(pc.abs(values), 2.0**53))
    bad = bad | (_mask(pc.is_valid(values)) & ~whole)
    return pc.cast(_keep(values, whole), pa.int64()), bad


def _rounded(values: pa.Array, bad: np.ndarray) -> tuple[pa.Array, np.ndarray]:
    return _exact(pc.round(values), bad)


def _in_range(values: pa.Array, bad: np.ndarray, one: Field) -> tuple[pa.Array, np.ndarray]:
    low, high = one.ge, one.le
    if one.type is int:
        low, high = (-MAX_INT if low is None else low), (MAX_INT if high is None else high)
    if low is not None:
        bad = bad | _mask(pc.less(values, low))
    if high is not None:
        bad = bad | _mask(pc.greater(values, high))
    return values, bad


def _keep(values: pa.Array, keep: np.ndarray) -> pa.Array:
    return pc.if_else(pa.array(keep), values, pa.scalar(None, values.type))


def _mask(condition: pa.Array) -> np.ndarray:
    """Booleans of numpy, null as false."""
    return np.asarray(pc.fill_null(condition, False).to_numpy(zero_copy_only=False), dtype=bool)


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))
