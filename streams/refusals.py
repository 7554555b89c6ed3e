"""A refused record: where it came from, why it does not count, and its untouched bytes.

Values and wording only. Who refuses is in ``tenuto.streams.door``, where it goes is in
``tenuto.streams.dead_letters``.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

MAX_SHOWN = 60


class Reason(StrEnum):
    """Why a record was refused, in the order in which it is asked; a label of metrics."""

    OVERSIZED = "oversized"
    EMPTY = "empty"
    MALFORMED = "malformed"
    VERSION = "version"
    FIELD = "field"
    MISPLACED = "misplaced"
    LATE = "late"
    FUTURE = "future"


@dataclass(frozen=True, slots=True)
class Refusal:
    """One record that does not count.

    Attributes:
        topic, partition, offset: its origin, which is also its identity: the same record refused
            twice, by a worker and by its successor, is one refusal.
        text: names the field, the value, the place and the mend.
        value, key, timestamp_ms: of the record, untouched.
    """

    topic: str
    partition: int
    offset: int
    reason: Reason
    text: str
    value: bytes | None
    key: bytes | None
    timestamp_ms: int


def reason_text(
    subject: str, value: str, rule: str, *, topic: str, partition: int, offset: int
) -> str:
    """``play_ms: -3 in plays[2]@1881: must be >= 0``."""
    return f"{subject}: {value} in {topic}[{partition}]@{offset}: {rule}"


def shown(value: bytes | str) -> str:
    """At most 60 printable characters of a value, for a reason's text."""
    if isinstance(value, bytes):
        # A character has at most four bytes, so nothing that is shown is cut off here.
        text = value[: 4 * MAX_SHOWN + 4].decode(errors="backslashreplace")
    else:
        text = value[: MAX_SHOWN + 1]
    text = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
    return text if len(text) <= MAX_SHOWN else text[: MAX_SHOWN - 1] + "…"
