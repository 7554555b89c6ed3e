"""Samples: final snapshots and their labels as Arrow rows, one row per shown item.

Rows follow the snapshots' own columns, so that samples are a function of the log and not of who
joins it; consecutive snapshots of other columns make a batch of their own. Invariant: the feature
bytes of a row are those of its snapshot.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tenuto.snapshot.column_names import SERVED_PREFIX, STATE_SUFFIX
from tenuto.snapshot.join import JoinedLabels, SnapshotBlock, label_schema
from tenuto.snapshot.labels import SampleStream
from tenuto.snapshot.record import Snapshot

HASH_METADATA = b"tenuto.hash"

REQUEST_FIELDS = [
    pa.field("request_id", pa.string(), nullable=False),
    pa.field("user_id", pa.string(), nullable=False),
    pa.field("query", pa.string(), nullable=False),
    pa.field("item_id", pa.string(), nullable=False),
    pa.field("position", pa.int32()),
    pa.field("request_ts_ms", pa.int64(), nullable=False),
    pa.field("as_of_ms", pa.int64(), nullable=False),
]
ORIGIN_FIELDS = [
    pa.field("policy", pa.string(), nullable=False),
    pa.field("slice", pa.string(), nullable=False),
    pa.field("model", pa.string(), nullable=False),
    pa.field("propensity", pa.float64()),
    pa.field("weight", pa.float64(), nullable=False),
    pa.field("snapshot_partition", pa.int32(), nullable=False),
    pa.field("snapshot_offset", pa.int64(), nullable=False),
    pa.field("item_index", pa.int32(), nullable=False),
    pa.field("snapshot_arrival_ms", pa.int64(), nullable=False),
]


@dataclass(frozen=True, slots=True)
class PlacedSnapshot:
    """A snapshot and where the log has it.

    Attributes:
        offset: of its record.
        arrival_ms: maximum record timestamp of its partition up to it.
    """

    snapshot: Snapshot
    offset: int
    arrival_ms: int


def block_of(placed: Sequence[PlacedSnapshot]) -> SnapshotBlock:
    """The snapshots as the join wants them."""
    counts = [len(p.snapshot.items) for p in placed]
    slots = [p.snapshot.slots for p in placed]
    return SnapshotBlock(
        [p.snapshot.request_id for p in placed],
        np.array([p.snapshot.request_ts for p in placed], np.int64),
        np.concatenate([[0], np.cumsum(counts, dtype=np.int64)]),
        pa.array([item for p in placed for item in p.snapshot.items], pa.string()),
        np.concatenate(slots) if slots else np.zeros(0, np.int32),
    )


def sample_schema(
    columns: Sequence[tuple[str, str]], scores: Sequence[str], stream: SampleStream
) -> pa.Schema:
    """Names and types of a batch's columns.

    Args:
        columns: (name, definition hash) of the features, as the snapshots say; one that has the
            name of a label, from before the label was declared, is left out.
        scores: names of the served scores.
        stream: whose labels they carry.
    """
    features = []
    for index in _carried(columns, stream):
        name, digest = columns[index]
        features.append(pa.field(name, pa.float32(), False, {HASH_METADATA: digest.encode()}))
        features.append(pa.field(name + STATE_SUFFIX, pa.uint8(), False))
    served = [pa.field(SERVED_PREFIX + name, pa.float32()) for name in scores]
    labels = list(label_schema(stream))
    return pa.schema([*REQUEST_FIELDS, *features, *labels, *served, *ORIGIN_FIELDS])


def batches_of(
    placed: Sequence[PlacedSnapshot],
    labels: JoinedLabels,
    stream: SampleStream,
    partition: int,
    *,
    scores: Sequence[str],
    max_bytes: int,
) -> Iterator[tuple[Sequence[PlacedSnapshot], pa.RecordBatch]]:
    """Rows of consecutive snapshots, one Arrow batch for each run of equal columns.

    A batch is of whole snapshots, of about ``max_bytes`` at most and of one at least. Of the
    served scores it has those named in ``scores``, null where a snapshot has none.
    """
    start_row = 0
    for run in _runs(placed, max_bytes):
        rows = sum(len(p.snapshot.items) for p in run)
        part = {name: column.slice(start_row, rows) for name, column in labels.columns.items()}
        yield run, _batch(run, part, stream, partition, scores)
        start_row += rows


def sample_bytes(placed: PlacedSnapshot) -> int:
    """About what a snapshot's rows take in a samples record."""
    snapshot = placed.snapshot
    return len(snapshot.values) + len(snapshot.states) + 150 * len(snapshot.items) + 200


def _runs(placed: Sequence[PlacedSnapshot], max_bytes: int) -> Iterator[list[PlacedSnapshot]]:
    run: list[PlacedSnapshot] = []
    size = 0
    for one in placed:
        size += sample_bytes(one)
        if run and (size > max_bytes or one.snapshot.columns != run[0].snapshot.columns):
            yield run
            run, size = [], sample_bytes(one)
        run.append(one)
    if run:
        yield run


def _batch(
    run: Sequence[PlacedSnapshot],
    labels: dict[str, pa.Array],
    stream: SampleStream,
    partition: int,
    scores: Sequence[str],
) -> pa.RecordBatch:
    first = run[0].snapshot
    counts = np.array([len(p.snapshot.items) for p in run], np.int64)
    rows = int(counts.sum())
    of_row = np.repeat(np.arange(len(run)), counts)
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]]).astype(np.int64)
    shape = (rows, len(first.columns))
    values = np.frombuffer(b"".join(p.snapshot.values for p in run), "<f4").reshape(shape)
    states = np.frombuffer(b"".join(p.snapshot.states for p in run), np.uint8).reshape(shape)
    slots = np.concatenate([p.snapshot.slots for p in run])

    def text(field: str) -> pa.Array:
        return pa.array([getattr(p.snapshot, field) for p in run], pa.string()).take(of_row)

    def number(numbers: list[Any], dtype: Any) -> NDArray[Any]:
        return np.array(numbers, dtype)[of_row]

    snapshots = [p.snapshot for p in run]
    columns: list[Any] = [
        text("request_id"),
        text("user_id"),
        text("query"),
        pa.array([item for s in snapshots for item in s.items], pa.string()),
        pa.array(slots, pa.int32(), mask=slots < 0),
        number([s.request_ts for s in snapshots], np.int64),
        number([s.as_of for s in snapshots], np.int64),
    ]
    for index in _carried(first.columns, stream):
        columns += [np.ascontiguousarray(values[:, index]), np.ascontiguousarray(states[:, index])]
    columns += labels.values()
    for name in scores:
        columns.append(_served(snapshots, name))
    propensity = pa.array([s.propensity for s in snapshots], pa.float64()).take(of_row)
    columns += [
        text("policy"),
        text("slice"),
        text("model"),
        propensity,
        number([s.weight for s in snapshots], np.float64),
        np.full(rows, partition, np.int32),
        number([p.offset for p in run], np.int64),
        (np.arange(rows) - starts[of_row]).astype(np.int32),
        number([p.arrival_ms for p in run], np.int64),
    ]
    schema = sample_schema(first.columns, scores, stream)
    arrays = [
        column if isinstance(column, pa.Array) else pa.array(column, field.type)
        for column, field in zip(columns, schema, strict=True)
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _carried(columns: Sequence[tuple[str, str]], stream: SampleStream) -> list[int]:
    """Which of the snapshots' columns the samples of a stream have: no label's name twice."""
    labels = set(label_schema(stream).names)
    return [
        index
        for index, (name, _) in enumerate(columns)
        if name not in labels and name + STATE_SUFFIX not in labels
    ]


def _served(snapshots: Sequence[Snapshot], name: str) -> pa.Array:
    """A served score of every row, null where its snapshot has none."""
    parts = [s.scores.get(name) for s in snapshots]
    if all(parts):
        return pa.array(np.frombuffer(b"".join(part or b"" for part in parts), "<f4"))
    sizes = [len(s.items) for s in snapshots]
    filled = [part or bytes(4 * size) for part, size in zip(parts, sizes, strict=True)]
    absent = np.repeat([part is None for part in parts], sizes)
    return pa.array(np.frombuffer(b"".join(filled), "<f4"), pa.float32(), mask=absent)
