"""A snapshot: what a request saw, as one Kafka record.

MessagePack, keyed by field name, so that other languages can read it. It is self-contained: its
columns carry the hashes of their definitions, and its log positions name the very prefix of the
log that its values are a function of.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Annotated, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from tenuto.features.events import MAX_ID_LENGTH, MAX_INT, MAX_POSITION, MAX_QUERY_LENGTH
from tenuto.features.matrix import Matrix, Stamp
from tenuto.features.reader import Request
from tenuto.features.schema import Column
from tenuto.snapshot.column_names import column_fault
from tenuto.snapshot.nesting import MAX_NESTING, is_nested_too_deep

VERSION = 1
MAX_ITEMS = 10_000


ContextValue = str | bool | int | float | None
Offset = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]


class SnapshotError(ValueError):
    """A snapshot record that cannot be right: which field, and why."""


class LogPositions(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where every partition of every event stream stood at the read.

    Lists run over topics, then partitions. ``batches`` holds ``[index, end, chunks, done]`` for
    each batch in progress: of the records up to ``end``, an entity has seen those whose chunk,
    ``crc32(key) % chunks``, is below ``done``.

    Where the state is kept in several ``buckets``, ``read`` names those that were read. All of the
    above is of the first; ``differing`` holds ``[bucket, index, origin, next, end, chunks, done]``
    where another one stood elsewhere. They mostly stand together, and a snapshot stays small.
    """

    topics: list[str]
    partitions: int
    incarnations: bytes
    origin: list[Offset]
    next: list[Offset]
    batches: list[list[Offset]]
    buckets: int = 1
    read: list[Offset] = []
    differing: list[list[Offset]] = []


class Snapshot(msgspec.Struct, frozen=True):
    """One request: who asked what and when, what was shown in which order, and what it saw.

    Attributes:
        request_id, user_id, query, request_ts: the request; epoch ms.
        as_of: the moment of the windows, epoch ms.
        items: shown items in order, ``n``.
        columns: ``[name, definition hash]`` of each column, ``m``.
        values: ``n * m`` float32, little-endian, row by row.
        states: ``n * m`` bytes of ``State``.
        layout: digest of the layout read from.
        log: the log positions read at.
        positions: slots of the items, -1 where unknown; ``0 .. n-1`` when not given.
        context: the context given, by name; lists are per shown item.
        scores: served scores by name, ``n`` float32 little-endian each.
        policy, slice, model: what decided the order, where the ranker says so.
        propensity: probability of the shown order, where known.
        weight: 1 / sample rate.
    """

    request_id: str
    user_id: str
    query: str
    request_ts: int
    as_of: int
    items: list[str]
    columns: list[tuple[str, str]]
    values: bytes
    states: bytes
    layout: str
    log: LogPositions
    v: int = VERSION
    positions: list[int] | None = None
    context: dict[str, ContextValue | list[ContextValue]] = {}
    scores: dict[str, bytes] = {}
    policy: str = ""
    slice: str = ""
    model: str = ""
    propensity: float | None = None
    weight: float = 1.0

    @property
    def matrix(self) -> NDArray[np.float32]:
        """Values, ``(n, m) float32``."""
        return np.frombuffer(self.values, "<f4").reshape(len(self.items), len(self.columns))

    @property
    def state_matrix(self) -> NDArray[np.uint8]:
        """States, ``(n, m) uint8``."""
        return np.frombuffer(self.states, np.uint8).reshape(len(self.items), len(self.columns))

    @property
    def slots(self) -> NDArray[np.int32]:
        """Position of each shown item, -1 where unknown."""
        if self.positions is None:
            return np.arange(len(self.items), dtype=np.int32)
        return np.asarray(self.positions, np.int32)


def of(
    request: Request,
    matrix: Matrix,
    *,
    positions: Sequence[int] | None = None,
    scores: Mapping[str, Any] | None = None,
    policy: str = "",
    slice: str = "",
    model: str = "",
    propensity: float | None = None,
    weight: float = 1.0,
) -> Snapshot:
    """The snapshot of a request that was shown the rows of ``matrix`` in their order.

    Args:
        request: as it was read for.
        matrix: the rows shown, in order (``Matrix.take``).
        positions: slots, where they are not ``0 .. n-1``; -1 for unknown.
        scores: served scores by name, each ``n`` numbers.
    """
    return Snapshot(
        request.request_id,
        request.user_id,
        request.query,
        request.ts_ms,
        matrix.as_of_ms,
        list(matrix.items),
        _columns(matrix.columns),
        np.ascontiguousarray(matrix.values, "<f4").tobytes(),
        np.ascontiguousarray(matrix.states).tobytes(),
        matrix.layout,
        _positions(matrix),
        positions=None if positions is None else [int(p) for p in positions],
        context={name: _plain(value) for name, value in matrix.context.items()},
        scores={n: np.asarray(s, "<f4").tobytes() for n, s in (scores or {}).items()},
        policy=policy,
        slice=slice,
        model=model,
        propensity=propensity,
        weight=weight,
    )


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Snapshot)


def encode(snapshot: Snapshot) -> bytes:
    """The record's value."""
    return _encoder.encode(snapshot)


def decode(value: bytes) -> Snapshot:
    """The snapshot in a record's value, checked.

    Raises:
        SnapshotError: malformed, of an unknown version, or inconsistent; names the field.
    """
    try:
        snapshot = _decoder.decode(value)
    except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError) as error:
        raise SnapshotError(f"snapshot: {error}") from error
    except RecursionError as error:
        raise _too_deep() from error
    # Only fields that are not known here can be nested, and only then is there more than them.
    if len(_encoder.encode(snapshot)) != len(value) and is_nested_too_deep(value):
        raise _too_deep()
    n, m = len(snapshot.items), len(snapshot.columns)
    if snapshot.v > VERSION or snapshot.v < 1:
        raise SnapshotError(f"v: {snapshot.v}: known versions are 1 to {VERSION}")
    if n > MAX_ITEMS:
        raise SnapshotError(f"items: {n}: must be at most {MAX_ITEMS}")
    for name, size, width in (
        ("values", len(snapshot.values), 4),
        ("states", len(snapshot.states), 1),
    ):
        if size != n * m * width:
            raise SnapshotError(f"{name}: {size} bytes: must be {n} items x {m} columns x {width}")
    for name, score in snapshot.scores.items():
        if len(score) != 4 * n:
            raise SnapshotError(f"scores.{name}: {len(score)} bytes: must be {n} items x 4")
    if snapshot.positions is not None:
        _check_positions(snapshot.positions, n)
    for name, text, most in (
        ("request_id", snapshot.request_id, MAX_ID_LENGTH),
        ("user_id", snapshot.user_id, MAX_ID_LENGTH),
        ("query", snapshot.query, MAX_QUERY_LENGTH),
    ):
        if len(text) > most or (not text and name != "query"):
            raise SnapshotError(f"{name}: {text[:60]!r}: must have 1 to {most} characters")
    for name, ts in (("request_ts", snapshot.request_ts), ("as_of", snapshot.as_of)):
        if not 0 <= ts <= MAX_INT:
            raise SnapshotError(f"{name}: {ts}: must be 0 to {MAX_INT}")
    rule = _column_fault(tuple(snapshot.columns))
    if rule:
        raise SnapshotError(f"columns: {rule}")
    if not (snapshot.weight > 0.0) or snapshot.weight == float("inf"):
        raise SnapshotError(f"weight: {snapshot.weight}: must be a positive number")
    for item in snapshot.items:
        if not 1 <= len(item) <= MAX_ID_LENGTH:
            raise SnapshotError(f"items: {item[:60]!r}: must have 1 to {MAX_ID_LENGTH} characters")
    return snapshot


def _too_deep() -> SnapshotError:
    return SnapshotError(f"snapshot: must not be nested deeper than {MAX_NESTING}")


@lru_cache(maxsize=256)
def _column_fault(columns: tuple[tuple[str, str], ...]) -> str:
    return column_fault(name for name, _ in columns)


def _check_positions(positions: list[int], n: int) -> None:
    if len(positions) != n:
        raise SnapshotError(f"positions: {len(positions)} of them: must be {n}, one per item")
    for position in positions:
        if not -1 <= position <= MAX_POSITION:
            raise SnapshotError(f"positions: {position}: must be -1 to {MAX_POSITION}")


@lru_cache(maxsize=64)
def _columns(columns: tuple[Column, ...]) -> list[tuple[str, str]]:
    return [(column.name, column.hash) for column in columns]


def _positions(matrix: Matrix) -> LogPositions:
    stamp = matrix.stamp
    partitions = stamp.entries.shape[1]
    flat = stamp.entries.reshape(-1)
    busy = np.flatnonzero(flat["batch_end"])
    batches = [
        [int(i), int(flat["batch_end"][i]), int(flat["chunks"][i]), int(flat["done"][i])]
        for i in busy
    ]
    of_all = (
        stamp.entries
        if stamp.others is None
        else np.concatenate([stamp.entries, *stamp.others], axis=1)
    )
    # One topic's partitions share an incarnation; a partition not entered yet has none.
    lives = [max(bytes(row.tobytes()[:16]) for row in topic) for topic in of_all]
    several = stamp.buckets > 1
    return LogPositions(
        list(stamp.topics),
        partitions,
        b"".join(lives),
        flat["origin"].tolist(),
        flat["next"].tolist(),
        batches,
        stamp.buckets,
        list(stamp.read) if several else [],
        _differing(stamp) if several else [],
    )


_PLACE = ["origin", "next", "batch_end", "chunks", "done"]


def _differing(stamp: Stamp) -> list[list[int]]:
    """Where the other buckets stood that did not stand where the first did."""
    if stamp.others is None or not len(stamp.others):
        return []
    first, others = stamp.entries[_PLACE], stamp.others[_PLACE]
    return [
        [
            stamp.read[1 + at],
            topic * first.shape[1] + partition,
            *others[at, topic, partition].item(),
        ]
        for at, topic, partition in np.argwhere(others != first).tolist()
    ]


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.tolist()
    if not isinstance(value, str) and hasattr(value, "__len__"):
        return list(value)
    return value.item() if isinstance(value, np.generic) else value
