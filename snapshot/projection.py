"""Named columns of sample batches, whose schemas may differ as features come and go."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import pyarrow as pa

from tenuto.snapshot.samples import HASH_METADATA


def project(batch: pa.RecordBatch, columns: Sequence[str] | None) -> pa.RecordBatch:
    """The named columns in that order; all nulls, of Arrow's null type, where it lacks one."""
    if columns is None:
        return batch
    known = set(batch.schema.names)
    fields = [
        batch.schema.field(name) if name in known else pa.field(name, pa.null()) for name in columns
    ]
    arrays = [batch.column(name) if name in known else pa.nulls(batch.num_rows) for name in columns]
    return pa.RecordBatch.from_arrays(arrays, schema=pa.schema(fields, batch.schema.metadata))


def missing_from(place: str, missing: Iterable[str], known: Iterable[str]) -> ValueError:
    """The error of columns that no sample has."""
    names = ", ".join(repr(name) for name in sorted(missing))
    return ValueError(f"{place}: no column {names}: there are {', '.join(sorted(known))}")


def table_of(batches: Iterable[pa.RecordBatch]) -> pa.Table:
    """All batches as one table; a column that some lack is null there.

    Raises:
        ValueError: a column's definition or type changed in between: its values do not compare.
    """
    tables = [pa.Table.from_batches([batch]) for batch in batches]
    definitions: dict[str, tuple[pa.DataType, bytes | None]] = {}
    for table in tables:
        for field in table.schema:
            if pa.types.is_null(field.type):
                continue
            found = field.type, (field.metadata or {}).get(HASH_METADATA)
            before = definitions.setdefault(field.name, found)
            if before != found:
                raise ValueError(
                    f"column {field.name!r} has two definitions in these samples, "
                    f"{_shown(before)} and {_shown(found)}: leave it out by columns=, or read "
                    "batches()"
                )
    if not tables:
        return pa.table({})
    return pa.concat_tables(tables, promote_options="default")


def of_size(batches: Iterable[pa.RecordBatch], rows: int) -> Iterator[pa.RecordBatch]:
    """The same rows in batches of ``rows``; shorter only at the end and where columns change."""
    waiting: list[pa.RecordBatch] = []
    count = 0
    for batch in batches:
        if waiting and not batch.schema.equals(waiting[0].schema):
            yield from _cut(waiting, rows)
            waiting, count = [], 0
        waiting.append(batch)
        count += batch.num_rows
        if count >= rows:
            *full, last = _cut(waiting, rows)
            yield from full
            if last.num_rows == rows:
                yield last
                waiting, count = [], 0
            else:
                waiting, count = [last], last.num_rows
    if waiting:
        yield from _cut(waiting, rows)


def _cut(batches: Sequence[pa.RecordBatch], rows: int) -> Iterator[pa.RecordBatch]:
    table = pa.Table.from_batches(batches, batches[0].schema).combine_chunks()
    for first in range(0, table.num_rows, rows):
        yield from table.slice(first, rows).to_batches()


def _shown(definition: tuple[pa.DataType, bytes | None]) -> str:
    kind, digest = definition
    return f"{kind} {digest.decode()}" if digest else str(kind)
