"""What an event is: a name, typed fields with their ranges, and an example.

A declaration only: the codec that judges records against it is in ``tenuto.streams``. Features
count events and labels are read off them, both by the names declared here; no module outside a
preset or an application names an event.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

LogRow = Mapping[str, Any]
"""One event of an interaction log: its columns by name, ``ts`` (epoch ms) among them."""

_NAME = re.compile(r"[a-z][a-z0-9_]*")
_TYPES: dict[type, str] = {int: "int", float: "float", str: "str", bool: "bool"}

MAX_ID_LENGTH = 256
MAX_QUERY_LENGTH = 512
MAX_POSITION = 100_000
# Sums are kept as 64-bit integers: no single record may come near their end.
MAX_INT = 2**48


@dataclass(frozen=True, slots=True)
class Field:
    """One field of an event: its type, whether it may be absent, and the values that it allows.

    ``int`` fields are bounded by ±2**48 when no range is declared, so that sums of them stay far
    from the end of 64 bits. A field that may be absent reads as ``default``.
    """

    type: type
    ge: int | float | None = None
    le: int | float | None = None
    min_length: int = 0
    max_length: int | None = None
    required: bool = True
    default: int | float | str | bool | None = None
    doc: str = ""

    def __post_init__(self) -> None:
        if self.type not in _TYPES:
            raise TypeError(f"a field's type is int, float, str or bool, not {self.type!r}")


BASE_FIELDS: Mapping[str, Field] = MappingProxyType(
    {
        "request_id": Field(
            str, min_length=1, max_length=MAX_ID_LENGTH, doc="the request it answers"
        ),
        "user_id": Field(str, min_length=1, max_length=MAX_ID_LENGTH, doc="who asked"),
        "query": Field(str, max_length=MAX_QUERY_LENGTH, doc='what was asked; "" for a feed'),
        "item_id": Field(str, min_length=1, max_length=MAX_ID_LENGTH, doc="the item it is about"),
        "position": Field(
            int, ge=0, le=MAX_POSITION, required=False, doc="0-based slot; absent when unknown"
        ),
        "ts": Field(int, ge=0, doc="event time, epoch ms UTC"),
    }
)
"""Fields of every event record."""


@dataclass(frozen=True)
class Event:
    """An event stream: its topic's name and what one of its records says.

    Args:
        name: topic name, lower case (``"clicks"``).
        fields: what its records say besides the base fields (request_id, user_id, query, item_id,
            position, ts); a bare type stands for ``Field(type)``.
        implies_impression: whether such an event proves that the item was seen, so that it can
            set the impression time of its row.
        version: the newest version of the record that this declaration reads; records say theirs
            in ``v`` (1 when absent) and a newer one is refused.
        log_name: stem of its columns in an interaction log: ``"click"`` reads ``click_ts_ms``;
            the name without its plural s when not given.
        reports: how one row of an interaction log becomes records: given the row's columns, the
            records' fields (``ts`` among them), where that is not one record with the columns
            named like its fields. A play, for example, is reported several times.
        example: a valid record's own fields, for the documentation and the conformance test.

    Example:
        >>> purchases = Event("purchases", fields={"amount_cents": Field(int, ge=0)})
        >>> sorted(purchases.all_fields)[:2]
        ['amount_cents', 'item_id']
    """

    name: str
    fields: Mapping[str, Field | type] = field(default_factory=dict)
    implies_impression: bool = False
    version: int = 1
    doc: str = ""
    example: Mapping[str, Any] = field(default_factory=dict)
    log_name: str = ""
    reports: Callable[[LogRow], Sequence[dict[str, Any]]] | None = None

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ValueError(f"event {self.name!r}: a name is lower case letters, digits and _")
        if self.name in RESERVED_TOPICS:
            raise ValueError(f"event {self.name!r}: the platform has a topic of that name")
        declared = {
            name: value if isinstance(value, Field) else Field(value)
            for name, value in self.fields.items()
        }
        for name in declared:
            if not _NAME.fullmatch(name) or name in BASE_FIELDS or name == "v":
                raise ValueError(f"event {self.name!r}: field {name!r} is reserved or ill-named")
        object.__setattr__(self, "fields", MappingProxyType(declared))
        object.__setattr__(self, "log_name", self.log_name or self.name.removesuffix("s"))

    @property
    def all_fields(self) -> dict[str, Field]:
        """Base fields first, then its own, each a :class:`Field`."""
        own = {name: value for name, value in self.fields.items() if isinstance(value, Field)}
        return {**BASE_FIELDS, **own}

    def __hash__(self) -> int:
        return hash(self.name)


RESERVED_TOPICS = frozenset({"snapshots", "samples", "checkpoints", "dead-letters"})
