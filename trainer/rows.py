"""Sample rows as arrays: what a model learns from and metrics judge, taken by name from Arrow.

Pure. A column that older samples lack is NaN; one of the right name and another definition is
refused. The order of rows is the caller's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tenuto.snapshot.column_names import SERVED_PREFIX
from tenuto.snapshot.samples import HASH_METADATA
from tenuto.trainer.spec import ID_COLUMNS, Head, ModelSpec

MISSING_POSITION = -1
_OF_EVERY_SAMPLE = (
    "position",
    "request_ts_ms",
    "impressed",
    "weight",
    "snapshot_partition",
    "snapshot_offset",
    "item_index",
    "snapshot_arrival_ms",
)


class SchemaError(ValueError):
    """Samples that a model cannot learn from; names the column and both definitions."""


@dataclass(frozen=True)
class Rows:
    """``n`` sample rows; all arrays have ``n`` in front.

    Attributes:
        partition, offset, item_index: identity: snapshot partition and offset, place in it.
        arrival_ms: of the snapshot.
        request_ts_ms: event time.
        values: ``(n, len(spec.columns)) float32``, NaN where missing.
        ids: ids by embedding table of the spec, as Arrow strings.
        position: slot it was shown in, ``MISSING_POSITION`` where unknown.
        labels: ``(n, len(spec.heads)) uint8``, each head's own 0/1 label column.
        impressed: 1 where it was seen; only these are learnt and judged.
        weight: of the row in losses and metrics.
        served: scores logged at serving, by name in ``spec.outputs``; NaN where absent.
    """

    partition: NDArray[np.int32]
    offset: NDArray[np.int64]
    item_index: NDArray[np.int32]
    arrival_ms: NDArray[np.int64]
    request_ts_ms: NDArray[np.int64]
    values: NDArray[np.float32]
    ids: dict[str, pa.StringArray]
    position: NDArray[np.int32]
    labels: NDArray[np.uint8]
    impressed: NDArray[np.uint8]
    weight: NDArray[np.float32]
    served: dict[str, NDArray[np.float32]]

    def __len__(self) -> int:
        return len(self.offset)

    def slice(self, start: int, stop: int) -> Self:
        """Rows ``[start, stop)``, without copying."""
        return self._each(lambda a: a[start:stop], lambda s: s.slice(start, stop - start))

    def take(self, indices: NDArray[np.int64]) -> Self:
        """The rows of these indices, in that order."""
        arrow = pa.array(indices, pa.int64())
        return self._each(lambda a: a[indices], lambda s: s.take(arrow))

    def seen(self) -> Self:
        """The rows with an impression."""
        seen = self.impressed != 0
        return self if seen.all() else self.take(seen.nonzero()[0])

    def _each(self, array: Any, strings: Any) -> Self:
        parts: dict[str, Any] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name == "ids":
                parts["ids"] = {name: strings(part) for name, part in value.items()}
            elif field.name == "served":
                parts["served"] = {name: array(part) for name, part in value.items()}
            else:
                parts[field.name] = array(value)
        return type(self)(**parts)


def concat(parts: Sequence[Rows]) -> Rows:
    """All rows of the parts, in order; there must be a part, and all of one spec."""
    if len(parts) == 1:
        return parts[0]
    joined: dict[str, Any] = {}
    for field in fields(Rows):
        values = [getattr(part, field.name) for part in parts]
        if field.name == "ids":
            joined["ids"] = {n: pa.concat_arrays([v[n] for v in values]) for n in values[0]}
        elif field.name == "served":
            joined["served"] = {n: np.concatenate([v[n] for v in values]) for n in values[0]}
        else:
            joined[field.name] = np.concatenate(values)
    return Rows(**joined)


def rows_of(batch: pa.RecordBatch, spec: ModelSpec) -> Rows:
    """The rows of a samples batch; columns that need no change are views of its memory.

    Raises:
        SchemaError: a feature of another definition than the model's, or no such label.
    """
    present = _present(batch.schema)
    _check(batch.schema, present, spec)
    _check_types(batch.schema, present, spec)
    rows = batch.num_rows

    def numbers(name: str, dtype: Any) -> Any:
        if not issubclass(dtype, np.floating) and batch.column(name).null_count:
            raise SchemaError(f"column {name!r}: null in {batch.column(name).null_count} rows")
        return batch.column(name).to_numpy(zero_copy_only=False).astype(dtype, copy=False)

    values = np.empty((rows, len(spec.columns)), np.float32)
    for index, column in enumerate(spec.columns):
        values[:, index] = numbers(column.name, np.float32) if column.name in present else np.nan
    labels = np.empty((rows, len(spec.heads)), np.uint8)
    for index, head in enumerate(spec.heads):
        labels[:, index] = numbers(head.label, np.uint8)
    served = {}
    for name in spec.outputs:
        logged = _served(name) in present
        served[name] = (
            numbers(_served(name), np.float32) if logged else np.full(rows, np.nan, np.float32)
        )
    position = pc.fill_null(batch.column("position"), MISSING_POSITION)
    return Rows(
        partition=numbers("snapshot_partition", np.int32),
        offset=numbers("snapshot_offset", np.int64),
        item_index=numbers("item_index", np.int32),
        arrival_ms=numbers("snapshot_arrival_ms", np.int64),
        request_ts_ms=numbers("request_ts_ms", np.int64),
        values=values,
        ids={table: batch.column(ID_COLUMNS[table]) for table in spec.ids},
        position=position.to_numpy(zero_copy_only=False).astype(np.int32, copy=False),
        labels=labels,
        impressed=numbers("impressed", np.uint8),
        weight=numbers("weight", np.float32),
        served=served,
    )


def missing_columns(schema: pa.Schema, spec: ModelSpec) -> list[str]:
    """Columns of the model that these samples lack: NaN in all their rows."""
    present = _present(schema)
    return [name for name in spec.names if name not in present]


def columns_of(spec: ModelSpec) -> list[str]:
    """The sample columns that rows are made of, for sources that read no others."""
    of_model = [*ID_COLUMNS.values(), *spec.names, *(head.label for head in spec.heads)]
    return [*dict.fromkeys([*_OF_EVERY_SAMPLE, *of_model, *map(_served, spec.outputs)])]


def learnt_label(rows: Rows, heads: Sequence[Head], index: int) -> NDArray[np.bool_]:
    """What head ``index`` learns, ``(n,)``: its label, and that of its ``given`` head too."""
    own: NDArray[np.bool_] = rows.labels[:, index] != 0
    given = heads[index].given
    if given is not None:
        own &= rows.labels[:, _index(heads, given)] != 0
    return own


def unattributed(rows: Rows, heads: Sequence[Head], index: int) -> int:
    """Seen rows where head ``index`` happened and its ``given`` head did not: not learnt."""
    own = (rows.labels[:, index] != 0) & (rows.impressed != 0)
    return int((own & ~learnt_label(rows, heads, index)).sum())


def _index(heads: Sequence[Head], name: str) -> int:
    return next(index for index, head in enumerate(heads) if head.name == name)


def _served(output: str) -> str:
    return SERVED_PREFIX + output


def _present(schema: pa.Schema) -> set[str]:
    # Where a reader asked for columns that the samples lack, they are there without a type.
    return {field.name for field in schema if not pa.types.is_null(field.type)}


def _check_types(schema: pa.Schema, present: set[str], spec: ModelSpec) -> None:
    """That every column which is taken by name is there once, and of a type to be taken."""
    numbers = [*_OF_EVERY_SAMPLE, *(head.label for head in spec.heads)]
    beside = [*spec.names, *map(_served, spec.outputs)]
    texts = [ID_COLUMNS[table] for table in spec.ids]
    for name in [*numbers, *texts, *(name for name in beside if name in present)]:
        if name not in present or len(schema.get_all_field_indices(name)) > 1:
            raise SchemaError(f"column {name!r}: must be there once in samples")
        kind = schema.field(name).type
        fits = pa.types.is_string(kind) if name in texts else _is_number(kind)
        if not fits:
            wanted = "text" if name in texts else "numbers"
            raise SchemaError(f"column {name!r}: {kind}: must be {wanted}")


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))


def _check(schema: pa.Schema, present: set[str], spec: ModelSpec) -> None:
    for column in spec.columns:
        if column.name not in present:
            continue
        metadata = schema.field(column.name).metadata or {}
        digest = metadata.get(HASH_METADATA, b"").decode(errors="replace")
        if digest != column.hash:
            raise SchemaError(
                f"column {column.name!r}: the samples define it as {digest or 'nothing'!r}, the "
                f"model as {column.hash!r}: train a new model, or give the feature a new name"
            )
    for head in spec.heads:
        if head.label not in present:
            raise SchemaError(
                f"task {head.name!r}: the samples have no column {head.label!r}: they were joined "
                "before the label was declared: start from later samples"
            )
