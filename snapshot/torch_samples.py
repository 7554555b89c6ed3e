"""Samples as a torch dataset; the only module here that imports torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch.utils.data import IterableDataset, get_worker_info

from tenuto.snapshot.projection import of_size


class TorchSamples(IterableDataset[dict[str, Any]]):
    """Batches of samples as dicts of tensors; made by ``Samples.torch``.

    Use it with ``DataLoader(…, batch_size=None)``. Each of its workers reads files, or partitions
    of a topic, of its own.
    """

    def __init__(self, source: Any, columns: Sequence[str] | None, batch_size: int) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size: {batch_size}: must be ≥ 1")
        self._source = source
        self._columns = columns
        self._batch_size = batch_size

    def __iter__(self) -> Iterator[dict[str, Any]]:
        worker = get_worker_info()
        source = self._source
        if worker is not None:
            source = source.sharded(worker.id, worker.num_workers)
        for batch in of_size(source.batches(self._columns), self._batch_size):
            yield {
                field.name: _values(field, batch.column(index))
                for index, field in enumerate(batch.schema)
            }


def _values(field: pa.Field, column: pa.Array) -> Any:
    """(rows,) tensor; a list of strings."""
    if pa.types.is_string(field.type):
        return column.to_pylist()
    if pa.types.is_null(field.type):
        return torch.full((len(column),), float("nan"))
    numbers = column
    if field.nullable and not pa.types.is_floating(field.type):
        # By the declared type, not by whether this batch has a null: dtypes stay.
        wide = pa.types.is_int64(field.type)
        numbers = column.cast(pa.float64() if wide else pa.float32())
    if numbers.null_count:
        numbers = numbers.fill_null(float("nan"))
    return torch.from_numpy(np.array(numbers.to_numpy(zero_copy_only=False)))
