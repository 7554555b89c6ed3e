"""Records of one event stream to typed rows and columns, and back: the declaration, compiled.

Decodes whole batches, yet record by record: what one record says never depends on its
neighbours, nor on how the batch was cut. What a record must satisfy besides its own declaration
(partition, time, size) is judged in ``tenuto.streams.door``.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Mapping, Sequence
from operator import attrgetter
from typing import Annotated, Any, NamedTuple

import msgspec
import numpy as np
import orjson
from numpy.typing import NDArray

from tenuto.features.events import MAX_INT, Event, Field
from tenuto.streams.refusals import Reason, shown

Column = list[str] | NDArray[np.int64] | NDArray[np.float64] | NDArray[np.bool_]
Columns = dict[str, Column]

MISSING_INT = -1
MAX_NESTING = 200

_DTYPES: dict[type, type] = {int: np.int64, float: np.float64, bool: np.bool_}
_MISSING: dict[type, Any] = {int: MISSING_INT, float: math.nan, str: "", bool: False}
_NOUNS = {int: "an integer", float: "a number", str: "a string", bool: "true or false"}
_JSON_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"', re.DOTALL)
_BRACKET = re.compile(rb"[\[\]{}]")


class InvalidEventError(ValueError):
    """A record that its event's declaration does not allow; names the field and the value."""


class Fault(NamedTuple):
    """What is wrong with one record: ``subject: value …: rule``."""

    reason: Reason
    subject: str
    value: str
    rule: str


class Decoded(NamedTuple):
    """A batch's rows, in order, and the faults of the others by their index in the batch."""

    rows: list[Any]
    faults: dict[int, Fault]


class EventCodec:
    """The wire form of one event: a JSON object of its fields.

    Unknown fields are ignored, a field that may be absent may also be null, and ``v`` is the
    record's version, 1 when absent.

    Raises:
        ValueError: a field's range does not fit into 64 bits.
    """

    def __init__(self, event: Event) -> None:
        self.event = event
        self.fields = event.all_fields
        self._decode = _decoder(event, self.fields)
        self._raw = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
        self._readers = [
            (name, field.type, attrgetter(_attribute(name)), _fill(field))
            for name, field in self.fields.items()
        ]
        self._floats = [name for name, field in self.fields.items() if field.type is float]

    def decode(self, values: Sequence[bytes]) -> Decoded:
        """Typed rows of a batch; a record that fails does so alone."""
        decode = self._decode
        try:
            # msgspec skips unknown fields without looking at their bytes, and how deep it can
            # follow nesting depends on the caller's stack: both are judged here, by the bytes.
            odd = [v for v in values if len(v) > 2 * MAX_NESTING or not v.isascii()]
            if not any(map(_ill_formed, odd)):
                return Decoded([decode(value) for value in values], {})
        except (msgspec.MsgspecError, UnicodeDecodeError):
            pass
        rows, faults = [], {}
        for index, value in enumerate(values):
            verdict = self._decode_one(value)
            if isinstance(verdict, Fault):
                faults[index] = verdict
            else:
                rows.append(verdict)
        return Decoded(rows, faults)

    def columns(self, rows: Sequence[Any]) -> Columns:
        """Fields of rows as columns: strings as lists, the rest as int64, float64 or bool arrays.

        What is missing reads as the field's default, or else as −1, nan, "" or False.
        """
        columns: Columns = {}
        for name, kind, read, fill in self._readers:
            column: list[Any] = list(map(read, rows))
            if fill is not None and None in column:
                column = [fill if value is None else value for value in column]
            columns[name] = column if kind is str else np.array(column, dtype=_DTYPES[kind])
        return columns

    def encode(self, record: Mapping[str, Any], *, validate: bool = True) -> bytes:
        """JSON of a record; NumPy numbers are taken as numbers.

        Raises:
            InvalidEventError: the record is not as declared (or, when not validated, not JSON).
        """
        fields = dict(record)
        if self.event.version != 1:
            fields.setdefault("v", self.event.version)
        try:
            value = orjson.dumps(fields, option=orjson.OPT_SERIALIZE_NUMPY)
        except TypeError as error:
            raise InvalidEventError(f"{self.event.name}: {error}: a record is JSON") from error
        if validate:
            self._refuse_non_finite(fields)
            verdict = self._decode_one(value)
            if isinstance(verdict, Fault):
                raise InvalidEventError(
                    f"{verdict.subject}: {verdict.value} in {self.event.name}: {verdict.rule}"
                )
        return value

    def _refuse_non_finite(self, fields: Mapping[str, Any]) -> None:
        # orjson writes NaN as null, which a field that may be absent would take as absent.
        for name in self._floats:
            number = fields.get(name)
            if number is not None and not isinstance(number, str) and not math.isfinite(number):
                raise InvalidEventError(f"{name}: {number} in {self.event.name}: must be finite")

    def _decode_one(self, value: bytes) -> Any:
        """The row, or the ``Fault`` that says why there is none."""
        if not value:
            return Fault(Reason.EMPTY, "record", "(empty)", "must be a JSON object")
        flaw = _ill_formed(value)
        if flaw:
            return Fault(Reason.MALFORMED, "record", shown(value), flaw)
        try:
            return self._decode(value)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            return self._fault(value, str(error))

    def _fault(self, value: bytes, decoder_says: str) -> Fault:
        try:
            raw = self._raw(value)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            return Fault(
                Reason.MALFORMED, "record", shown(value), f"must be a JSON object ({error})"
            )
        version = raw.get("v")
        if version is not None:
            rule = _version_rule(bytes(version), self.event.version)
            if rule:
                return Fault(Reason.VERSION, "v", shown(bytes(version)), rule)
        for name, field in self.fields.items():
            if name not in raw:
                if field.required:
                    return Fault(Reason.FIELD, name, "(absent)", "must be given")
                continue
            text = bytes(raw[name])
            try:
                rule = _field_rule(field, msgspec.json.decode(text))
            except (msgspec.MsgspecError, UnicodeDecodeError) as error:
                rule = f"must be {_NOUNS[field.type]} ({error})"
            if rule:
                return Fault(Reason.FIELD, name, shown(text), rule)
        # For example a field given twice, of which only the first is wrong.
        return Fault(
            Reason.MALFORMED, "record", shown(value), f"must be as declared: {decoder_says}"
        )


def _decoder(event: Event, fields: Mapping[str, Field]) -> Any:
    members: list[Any] = [
        (_attribute(name), _member_type(event, name, field), *_member_default(field))
        for name, field in fields.items()
    ]
    members.append((_attribute("v"), Annotated[int, msgspec.Meta(ge=1, le=event.version)], 1))
    # No cycles can arise, so the garbage collector need not follow millions of rows.
    row = msgspec.defstruct(
        event.name,
        members,
        rename={_attribute(name): name for name in (*fields, "v")},
        kw_only=True,
        frozen=True,
        gc=False,
    )
    return msgspec.json.Decoder(row).decode


def _attribute(name: str) -> str:
    # A field may be called like a keyword.
    return f"{name}_"


def _member_type(event: Event, name: str, field: Field) -> Any:
    if field.type is int:
        lowest, highest = _int_range(field)
        if not -(2**63) <= lowest <= highest < 2**63:
            raise ValueError(
                f"{event.name}.{name}: range {lowest} … {highest}: must fit into int64"
            )
        constraint = msgspec.Meta(ge=lowest, le=highest)
    elif field.type is float:
        constraint = msgspec.Meta(ge=field.ge, le=field.le)
    elif field.type is str:
        constraint = msgspec.Meta(min_length=field.min_length, max_length=field.max_length)
    else:
        constraint = msgspec.Meta()
    declared: Any = Annotated[field.type, constraint]
    return declared if field.required else declared | None


def _int_range(field: Field) -> tuple[int, int]:
    lowest = -MAX_INT if field.ge is None else math.ceil(field.ge)
    highest = MAX_INT if field.le is None else math.floor(field.le)
    return lowest, highest


def _member_default(field: Field) -> tuple[Any, ...]:
    return () if field.required else (_fill(field),)


def _fill(field: Field) -> Any:
    if field.required:
        return None
    return _MISSING[field.type] if field.default is None else field.default


def _ill_formed(value: bytes) -> str:
    """What is wrong with the bytes before anyone asks what they say; "" if nothing."""
    if not value.isascii():
        try:
            value.decode()
        except UnicodeDecodeError as error:
            return f"must be UTF-8 ({error.reason} at byte {error.start})"
    if len(value) > 2 * MAX_NESTING and _is_nested_too_deep(value):
        return f"must not be nested deeper than {MAX_NESTING}"
    return ""


def _is_nested_too_deep(value: bytes) -> bool:
    if value.count(b"[") + value.count(b"{") <= MAX_NESTING:
        return False
    depth = 0
    for bracket in _BRACKET.finditer(_JSON_STRING.sub(b"", value)):
        depth += 1 if bracket[0] in b"[{" else -1
        if depth > MAX_NESTING:
            return True
    return False


def _version_rule(text: bytes, newest: int) -> str:
    try:
        version = msgspec.json.decode(text)
    except msgspec.MsgspecError:
        version = None
    if type(version) is int and 1 <= version <= newest:
        return ""
    known = "1" if newest == 1 else f"1 to {newest}"
    return f"must be a version that this reader knows ({known})"


def _field_rule(field: Field, value: Any) -> str:
    """What ``value`` would have to be to be allowed; "" if it is."""
    if value is None and not field.required:
        return ""
    allowed = (int, float) if field.type is float else (field.type,)
    if type(value) not in allowed:
        return f"must be {_NOUNS[field.type]}"
    if field.type is str:
        if len(value) < field.min_length:
            return f"must have at least {field.min_length} character(s)"
        if field.max_length is not None and len(value) > field.max_length:
            return f"must have at most {field.max_length} characters (has {len(value)})"
        return ""
    if field.type is float and abs(value) > sys.float_info.max:
        return "must be finite"
    lowest, highest = _int_range(field) if field.type is int else (field.ge, field.le)
    if lowest is not None and value < lowest:
        return f"must be >= {lowest}"
    if highest is not None and value > highest:
        return f"must be <= {highest}"
    return ""
