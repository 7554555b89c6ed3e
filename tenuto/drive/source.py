"""What a lock-step run is driven by: ranking requests, and the events that showing items causes.

A source is pure: it knows neither Kafka nor Redis nor a clock, and gives the same requests and
outcomes however often and in whatever order it is asked. Interaction logs and the simulator are
the two sources; the driver alone decides when what they say is published.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from tenuto.features.events import Event

MISSING_POSITION = -1
"""Stands for an unknown position in :attr:`Request.positions`."""


@dataclass(frozen=True, slots=True)
class Request:
    """One ranking request.

    Attributes:
        request_id: unique within the source.
        user_id: who asked.
        query: what was asked; "" for a feed.
        ts_ms: when, epoch ms UTC.
        candidates: item ids, in the order logged or retrieved.
        positions: the logged position of each candidate, ``MISSING_POSITION`` where unknown; None
            when the order that the driver shows decides.
        context: by declared name, one value, or for a column per item a sequence as long as
            ``candidates``; None where the source has no value.
    """

    request_id: str
    user_id: str
    query: str
    ts_ms: int
    candidates: Sequence[str]
    positions: Sequence[int] | None
    context: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class EventRecord:
    """One event record as it goes on the wire.

    Attributes:
        event: name of its declared event.
        ts_ms: event time, epoch ms UTC; ``fields["ts"]`` again.
        fields: base fields, then the event's own; ``position`` is None when unknown.
    """

    event: str
    ts_ms: int
    fields: dict[str, Any]


class Source(Protocol):
    """Requests in time order and, once a slate is shown, what came of it."""

    @property
    def start_ms(self) -> int:
        """Time of the first request, epoch ms."""

    @property
    def end_ms(self) -> int:
        """Time of the last request, epoch ms."""

    def requests(self, start_ms: int, end_ms: int) -> list[Request]:
        """Requests with ``start_ms <= ts_ms < end_ms``, ordered by (ts_ms, request_id)."""

    def outcomes(self, request: Request, shown: Sequence[int]) -> list[EventRecord]:
        """Events caused by showing ``request.candidates[shown[0]]`` first, and so on, by time.

        A log knows what happened and ignores ``shown``; a simulator uses it.
        """

    def next_request_ms(self, from_ms: int) -> int | None:
        """Time of the first request at or after ``from_ms``; None when there is none."""


def event_records(
    event: Event,
    ts_ms: int,
    *,
    request: Request,
    item_id: str,
    position: int | None,
    own: Mapping[str, Any],
) -> list[EventRecord]:
    """The records of one event of one shown item, expanded by ``event.reports`` where declared.

    Args:
        event: the declaration.
        ts_ms: when it happened (a play: when it started), epoch ms.
        request: the request that it answers.
        item_id: the item that it is about.
        position: where the item was shown; None when unknown.
        own: values of the columns named like the event's fields.
    """
    base: dict[str, Any] = {
        "request_id": request.request_id,
        "user_id": request.user_id,
        "query": request.query,
        "item_id": item_id,
        "position": position,
        "ts": ts_ms,
    }
    if event.reports is None:
        return [EventRecord(event.name, ts_ms, {**base, **own})]
    reports = event.reports({**base, **own})
    return [EventRecord(event.name, int(one["ts"]), {**base, **one}) for one in reports]
