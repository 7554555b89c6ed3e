"""Small sample batches for the tests of the trainer, with two tasks and two columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from tenuto.snapshot.samples import HASH_METADATA
from tenuto.trainer.model_settings import ModelSettings
from tenuto.trainer.spec import Head, InputColumn, ModelSpec, Transform

COLUMNS = {"item_ctr": "h-ctr", "item_age": "h-age"}


def spec_with(settings: ModelSettings | None = None, **columns: str) -> ModelSpec:
    """A click and a conversion head over columns ``name="hash"``."""
    heads = (
        Head("ctr", "clicked", None, "", 1.0, 0.1),
        Head("cvr", "converted", "ctr", "ctcvr", 1.0, 0.3),
    )
    inputs = tuple(
        InputColumn(name, digest, Transform("log")) for name, digest in (columns or COLUMNS).items()
    )
    return ModelSpec(inputs, ("user", "query", "item"), heads, settings or ModelSettings())


@dataclass(frozen=True)
class Asked:
    """One snapshot: where the log has it, when it was asked, how many rows it has."""

    offset: int
    arrival_ms: int
    items: int = 1
    request_ts_ms: int | None = None


def batch_of(
    asked: Sequence[Asked],
    partition: int = 0,
    *,
    columns: dict[str, str] = COLUMNS,
    served: Sequence[str] = (),
    broken: frozenset[int] | None = None,
) -> pa.RecordBatch:
    """Rows of snapshots; all values follow from (partition, offset, item index).

    Args:
        broken: snapshot offsets whose features are infinite.
    """
    rows = []
    for one in asked:
        draw = np.random.default_rng([partition, one.offset])
        for item in range(one.items):
            clicked = draw.random() < 0.4
            converted = draw.random() < 0.5
            value = np.inf if broken and one.offset in broken else draw.random()
            rows.append(
                {
                    "request_id": f"r{partition}-{one.offset}",
                    "user_id": f"u{one.offset % 7}",
                    "query": "",
                    "item_id": f"i{draw.integers(20)}",
                    "position": item if one.offset % 5 else None,
                    "request_ts_ms": (
                        one.arrival_ms if one.request_ts_ms is None else one.request_ts_ms
                    ),
                    **dict.fromkeys(columns, value),
                    "impressed": int(draw.random() < 0.8),
                    "clicked": int(clicked),
                    "converted": int(converted),
                    **{f"served_{name}": draw.random() for name in served},
                    "weight": 1.0,
                    "snapshot_partition": partition,
                    "snapshot_offset": one.offset,
                    "item_index": item,
                    "snapshot_arrival_ms": one.arrival_ms,
                }
            )
    schema = pa.schema(
        [
            pa.field("request_id", pa.string(), False),
            pa.field("user_id", pa.string(), False),
            pa.field("query", pa.string(), False),
            pa.field("item_id", pa.string(), False),
            pa.field("position", pa.int32()),
            pa.field("request_ts_ms", pa.int64(), False),
            *(
                pa.field(name, pa.float32(), False, {HASH_METADATA: digest})
                for name, digest in columns.items()
            ),
            pa.field("impressed", pa.uint8(), False),
            pa.field("clicked", pa.uint8(), False),
            pa.field("converted", pa.uint8(), False),
            *(pa.field(f"served_{name}", pa.float32()) for name in served),
            pa.field("weight", pa.float64(), False),
            pa.field("snapshot_partition", pa.int32(), False),
            pa.field("snapshot_offset", pa.int64(), False),
            pa.field("item_index", pa.int32(), False),
            pa.field("snapshot_arrival_ms", pa.int64(), False),
        ]
    )
    return pa.RecordBatch.from_pylist(rows, schema=schema)
