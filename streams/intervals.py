"""Cutting and joining batches of one partition, by the interval of the log that they stand for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from tenuto.streams.batches import Batch


def cut(batch: Batch, start: int, end: int) -> Batch:
    """The part of a batch that stands for ``[start, end)``, which lies within its interval."""
    if (start, end) == (batch.start, batch.end):
        return batch
    low, high = np.searchsorted(batch.offsets, (start, end)).tolist()
    part = slice(low, high)
    return replace(
        batch,
        start=start,
        end=end,
        missed=max(0, min(end, batch.start + batch.missed) - start),
        offsets=batch.offsets[part],
        timestamps_ms=batch.timestamps_ms[part],
        keys=batch.keys[part],
        values=batch.values[part],
        headers=batch.headers[part],
    )


def joined(batches: Sequence[Batch]) -> Batch:
    """Consecutive batches as one; each starts where the one before it ends."""
    if len(batches) == 1:
        return batches[0]
    return replace(
        batches[0],
        end=batches[-1].end,
        missed=sum(batch.missed for batch in batches),
        log_end=batches[-1].log_end,
        offsets=np.concatenate([batch.offsets for batch in batches]),
        timestamps_ms=np.concatenate([batch.timestamps_ms for batch in batches]),
        keys=[key for batch in batches for key in batch.keys],
        values=[value for batch in batches for value in batch.values],
        headers=[headers for batch in batches for headers in batch.headers],
    )
