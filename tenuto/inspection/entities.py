"""What Redis holds of one entity as of a moment: raw sums, derived values, and their streams' age.

Pure: from the bytes that one read fetched to a report. It uses the very reader that serves
rankers, so what it shows is what they see. Fetching is ``tenuto.cli.inspect``'s.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tenuto.features.entities import Entity, Measure
from tenuto.features.feature import Feature
from tenuto.features.layout import HEAD_BYTES, Ring, View
from tenuto.features.matrix import State
from tenuto.features.positions import POSITION_BUCKETS
from tenuto.features.progress import PartitionCountError, unpack_all
from tenuto.features.reader import KeyPlan, Reader, Request
from tenuto.features.sums import ViewSums


class InspectionError(ValueError):
    """What was asked for is not there, or cannot be shown: where it was looked for, and why."""


@dataclass(frozen=True)
class WindowReport:
    """Sums of one window.

    Attributes:
        newest_tile_ms: start of the newest tile ever written for the entity; None for none.
        sums: by counter; ``buckets`` holds the parts of those kept by position, in bucket order.
    """

    window: str
    window_ms: int
    tile_ms: int
    newest_tile_ms: int | None
    sums: dict[str, int]
    buckets: dict[str, list[int]] = field(default_factory=dict)


@dataclass(frozen=True)
class FeatureReport:
    """A derived value: None where it is missing; ``state`` is a :class:`State`, lower case."""

    name: str
    value: float | None
    state: str


@dataclass(frozen=True)
class ViewReport:
    """One entity's stored string, decoded.

    Attributes:
        key: id by field.
        bytes: length of the stored value, 0 where Redis has none.
        seen: whether a tile of the longest window is not empty.
        first_seen_ms: start of its oldest non-empty tile; None without any.
    """

    entity: str
    key: dict[str, str]
    redis_key: str
    bytes: int
    seen: bool
    first_seen_ms: int | None
    windows: list[WindowReport]
    features: list[FeatureReport]


@dataclass(frozen=True)
class StreamReport:
    """How far Redis has read one event stream, as of the moment.

    Attributes:
        entered: partitions that Redis's progress knows.
        slowest, behind_ms: the partition whose arrival lies furthest behind, and how far.
        rebuilding: partitions that are absent, or not yet read to where the store was lost.
        joined_ms: arrival at which the log was joined; windows that begin before it are
            rebuilding too. 0 where it was read from its start.
        partitions: of each that is known, its offset, arrival and batch in progress.
    """

    topic: str
    count: int
    entered: int
    slowest: int | None
    behind_ms: int | None
    rebuilding: list[int]
    joined_ms: int
    partitions: list[dict[str, int]]


@dataclass(frozen=True)
class EntityReport:
    """Everything about one entity; ``as_of_origin`` says who chose the moment.

    The streams are as its own bucket has read them.
    """

    as_of_ms: int
    as_of_origin: str
    layout: str
    views: list[ViewReport]
    streams: list[StreamReport]


def views_by_key(reader: Reader, key: tuple[str, ...]) -> list[View]:
    """The views whose entities are found by these fields."""
    return [view for view in reader.layout.views if view.entity.key == key]


def view_by_name(reader: Reader, name: str) -> View:
    """The view of a declared entity.

    Raises:
        InspectionError: nothing is counted for an entity of that name.
    """
    for view in reader.layout.views:
        if view.entity.name == name:
            return view
    known = ", ".join(f"{v.entity.name}({', '.join(v.entity.key)})" for v in reader.layout.views)
    raise InspectionError(f"entity {name!r}: nothing is counted for it: there are {known}")


def plan_of(reader: Reader, view: View, parts: Sequence[str]) -> KeyPlan:
    """The keys to fetch for an entity: progress, itself, and traffic.

    Raises:
        InspectionError: another number of ids than the entity has fields.
    """
    entity = view.entity
    if len(parts) != len(entity.key):
        wanted = " ".join(name.upper() for name in entity.key) or "no id"
        raise InspectionError(f"entity {entity.name!r}: takes {wanted} (given {len(parts)})")
    request, items, context = _asked(view, parts, 0)
    return reader.plan(request, items, context)


def report_of(
    reader: Reader,
    view: View,
    parts: Sequence[str],
    plan: KeyPlan,
    values: Sequence[bytes | None],
    as_of_ms: int | None = None,
) -> EntityReport:
    """The report of one entity.

    Args:
        plan, values: as ``plan_of`` says, and what Redis answered.
        as_of_ms: the moment; without it the newest arrival that Redis has read to.

    Raises:
        InspectionError: Redis has read nothing, or was filled with another partition count.
        AsOfTooOldError: the moment lies behind what the rings still hold.
    """
    at = _place(view, plan)
    bucket = 0 if plan.bucket_of is None else int(plan.bucket_of[at])
    entries = progress_of(reader, plan.keys[bucket], values[bucket])
    origin = "given"
    if as_of_ms is None:
        as_of_ms, origin = int(entries["arrival"].max()), "the newest arrival that Redis has"
    value = values[at]
    request, items, context = _asked(view, parts, as_of_ms)
    matrix = reader.decode(request, items, context, as_of_ms, plan, values)
    features = [
        FeatureReport(
            feature.name,
            None if np.isnan(matrix.values[0, index]) else float(matrix.values[0, index]),
            State(int(matrix.states[0, index])).name.lower(),
        )
        for index, feature in enumerate(reader.features.features)
        if _belongs(feature, view.entity)
    ]
    sums = ViewSums(view, [value], as_of_ms)
    stored = value or b""
    shown = ViewReport(
        view.entity.name,
        dict(zip(view.entity.key, parts, strict=True)),
        plan.keys[at].decode(errors="backslashreplace"),
        len(stored),
        bool(sums.seen[0]),
        _first_seen_ms(view, sums),
        [_window(view, ring, index, sums, stored) for index, ring in enumerate(view.rings)],
        features,
    )
    streams = streams_of(reader, entries, as_of_ms)
    return EntityReport(as_of_ms, origin, reader.layout.digest, [shown], streams)


def progress_of(reader: Reader, key: bytes, blob: bytes | None) -> NDArray[Any]:
    """A bucket's positions, ``(topics, partitions)`` of ``PROGRESS_DTYPE``.

    Raises:
        InspectionError: there are none, or they are of another partition count.
    """
    try:
        entries = unpack_all(blob, len(reader.layout.topics), reader.partitions)
    except PartitionCountError as error:
        raise InspectionError(f"redis key {key.decode()}: {error}") from error
    if not any(entries.tobytes()):
        raise InspectionError(
            f"redis key {key.decode()}: nothing has been read into this layout: is `tenuto worker "
            "features` running, with this app, namespace, redis.buckets and time settings?"
        )
    return entries


def streams_of(reader: Reader, entries: NDArray[Any], as_of_ms: int) -> list[StreamReport]:
    """How far each event stream has been read."""
    reports = []
    for topic, row in zip(reader.layout.topics, entries, strict=True):
        there = np.array([any(entry.tobytes()[:16]) for entry in row])
        numbers = np.flatnonzero(there)
        slowest = int(numbers[np.argmin(row["arrival"][numbers])]) if len(numbers) else None
        joined = row["origin_arrival"][there & (row["origin"] > 0)]
        reports.append(
            StreamReport(
                topic,
                len(row),
                len(numbers),
                slowest,
                None if slowest is None else as_of_ms - int(row["arrival"][slowest]),
                np.flatnonzero(~there | (row["next"] < row["rebuild_until"])).tolist(),
                int(joined.max(initial=0)),
                [
                    {"partition": int(n), **{k: int(row[k][n]) for k in _SHOWN_PROGRESS}}
                    for n in numbers
                ],
            )
        )
    return reports


_SHOWN_PROGRESS = (
    "origin", "origin_arrival", "next", "arrival", "rebuild_until", "batch_end", "chunks", "done",
)  # fmt: skip


def _asked(
    view: View, parts: Sequence[str], ts_ms: int
) -> tuple[Request, list[str], dict[str, Any]]:
    """A request that reads exactly this entity; other entities' ids are empty."""
    given = dict(zip(view.entity.key, parts, strict=True))
    request = Request("", given.pop("user_id", ""), given.pop("query", ""), ts_ms)
    items = [given.pop("item_id", "")]
    return request, items, {name: [value] for name, value in given.items()}


def _place(view: View, plan: KeyPlan) -> int:
    at = next(places[0] for planned, places in plan.spans if planned == view)
    assert at is not None, "every id of the entity is given"
    return at


def _belongs(feature: Feature, entity: Entity) -> bool:
    """Whether a feature is formed from this entity, and from traffic at most besides."""
    entities = [counter.entity for counter, _ in feature.needs]
    return entity in entities and all(e == entity or not e.key for e in entities)


def _names(entity: Entity) -> dict[Measure, str]:
    named = {measure: name for name, measure in entity.counters.items()}
    split = {
        Measure(m.event, m.field, m.where, by_position=True): name
        for m, name in named.items()
        if m.field is None
    }
    return split | named


def _window(view: View, ring: Ring, index: int, sums: ViewSums, stored: bytes) -> WindowReport:
    names = _names(view.entity)
    totals: dict[str, int] = {}
    buckets: dict[str, list[int]] = {}
    for measure in dict.fromkeys(cell.measure for cell in ring.cells):
        name = names.get(measure, measure.definition.removesuffix(" by position"))
        totals[name] = int(sums.total(measure, ring.window)[0])
        _, cells = view.place(measure, ring.window)
        if measure.by_position and len(cells) == POSITION_BUCKETS:
            buckets[name] = [int(part[0]) for part in sums.by_position(measure, ring.window)]
    head = int.from_bytes(stored[HEAD_BYTES * index : HEAD_BYTES * (index + 1)], "big")
    newest_ms = (head - 1) * ring.window.tile_ms if head else None
    window = ring.window
    return WindowReport(str(window), window.length_ms, window.tile_ms, newest_ms, totals, buckets)


def _first_seen_ms(view: View, sums: ViewSums) -> int | None:
    ring = view.rings[view.longest]
    measures = dict.fromkeys(cell.measure for cell in ring.cells)
    first = [int(sums.first_seen_ms(measure, ring.window)[0]) for measure in measures]
    return min((ms for ms in first if ms >= 0), default=None)
