"""Rows of an interaction log's file: CSV, TSV (plain or .gz) or Parquet, read in batches.

Each row is judged by itself here and knows its number; what rows say together (requests, their
order) is the business of :mod:`tenuto.drive.interactions`.
"""

from __future__ import annotations

import csv
import gzip
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from tenuto.drive.columns import convert, expected, shown_value
from tenuto.drive.log_problems import OnError, Problem, Problems
from tenuto.drive.mapping import InteractionLogError, LogColumn, LogLayout

DELIMITERS = {".csv": ",", ".tsv": "\t"}
PARQUET = (".parquet", ".pq")
BATCH_ROWS = 65_536
BLOCK_BYTES = 8 * 2**20
MAX_HEADER = 2**20
NUMBER = "row"
"""Name of the column of :attr:`LogRows.table` that holds the row numbers."""


@dataclass(frozen=True)
class LogRows:
    """The good rows, in the file's order.

    Attributes:
        layout: how they were read.
        table: a column per ``LogColumn.key`` and ``NUMBER``; text is dictionary-coded, request
            ids aside.
        problems: the bad ones.
        empty_rows: rows with nothing in any column that is read, such as a blank last line.
    """

    layout: LogLayout
    table: pa.Table
    problems: Problems
    empty_rows: int


def header_of(path: str | Path) -> list[str]:
    """Names of the file's columns.

    Raises:
        InteractionLogError: no such file, not a known format, or no usable header.
    """
    path = Path(path)
    try:
        if _suffix(path) in PARQUET:
            names = [str(name) for name in pq.read_schema(path).names]
        else:
            opened = gzip.open if path.suffix == ".gz" else open
            # Bad bytes further down are a matter of their row, not of the header.
            with opened(
                path, "rt", encoding="utf-8-sig", errors="backslashreplace", newline=""
            ) as text:
                # Of a bound length: a small .gz may hold a line of gigabytes.
                line = text.readline(MAX_HEADER)
                if len(line) == MAX_HEADER:
                    raise InteractionLogError(
                        f"{path}: a header of more than {MAX_HEADER} characters"
                    )
                names = next(csv.reader([line], delimiter=DELIMITERS[_suffix(path)]), [])
    except (OSError, EOFError, zlib.error, csv.Error, pa.ArrowException, UnicodeError) as error:
        raise InteractionLogError(f"{path}: cannot be read: {error}") from error
    if not names:
        raise InteractionLogError(f"{path}: empty: a log begins with a header")
    doubled = [name for name, count in Counter(names).items() if count > 1]
    if doubled:
        raise InteractionLogError(f"{path}: column {doubled[0]!r} appears twice in the header")
    return names


def read_rows(path: str | Path, layout: LogLayout, *, on_error: OnError = "raise") -> LogRows:
    """Read and judge every row of the file.

    Args:
        path: the file; its ending tells the format.
        layout: what its columns are, from :func:`~tenuto.drive.mapping.log_layout`.
        on_error: "raise" at the first bad row, or "skip" such rows and count them.

    Raises:
        InteractionLogError: a bad row, or a file that cannot be read to its end.
    """
    path = Path(path)
    problems = Problems(path, on_error)
    tables, empty_rows = [], 0
    raw_batches = _parquet_batches if _suffix(path) in PARQUET else _csv_batches
    names = list(dict.fromkeys(column.file.name for column in layout.columns))
    try:
        for numbers, raw, misshapen in raw_batches(path, names):
            table, empty, bad = _judged(layout, numbers, raw)
            problems.add(misshapen + bad)
            tables.append(table)
            empty_rows += empty
    except (OSError, EOFError, pa.ArrowException, UnicodeError) as error:
        raise InteractionLogError(f"{path}: cannot be read: {error}") from error
    if not tables:
        none = {column.file.name: pa.array([], pa.binary()) for column in layout.columns}
        tables.append(_judged(layout, np.zeros(0, np.int64), none)[0])
    table = pa.concat_tables(tables).unify_dictionaries().combine_chunks()
    return LogRows(layout, table, problems, empty_rows)


def _judged(
    layout: LogLayout, numbers: np.ndarray, raw: Mapping[str, pa.Array]
) -> tuple[pa.Table, int, list[Problem]]:
    """The good rows of a batch, converted; how many of its rows are empty; the bad ones."""
    blank = np.ones(len(numbers), bool)
    for values in raw.values():
        csv_text = pa.types.is_binary(values.type)
        empty = pc.equal(values, b"") if csv_text else pc.is_null(values)
        blank &= pc.fill_null(empty, True).to_numpy(False)
    good = ~blank
    converted: dict[str, pa.Array] = {}
    found: list[Problem] = []

    def refuse(bad: np.ndarray, column: LogColumn, what: str) -> None:
        nonlocal good
        for index in np.flatnonzero(bad & good):
            value = shown_value(raw[column.file.name], int(index))
            found.append(Problem(int(numbers[index]), str(column), value, what))
        good = good & ~bad

    for column in layout.columns:
        one = convert(raw[column.file.name], column)
        refuse(one.bad, column, expected(column))
        converted[column.key] = one.values
    for event in layout.events:
        time, own = layout.of_event(event)
        for column in own if time and event.reports is None else ():
            if column.field.required and column.field.default is None:
                happened = pc.is_valid(converted[time.key]) if time else None
                lacks = pc.and_(happened, pc.is_null(converted[column.key])).to_numpy(False)
                refuse(lacks, column, f"a value: each of {event.name} has one")
    coded = {name: _coded(name, values) for name, values in converted.items()}
    table = pa.table({**coded, NUMBER: pa.array(numbers)})
    return (table if good.all() else table.filter(pa.array(good))), int(blank.sum()), found


def _coded(name: str, values: pa.Array) -> pa.Array:
    if pa.types.is_large_string(values.type) and not name.endswith(":request_id"):
        return values.dictionary_encode()
    return values


_Batches = Iterator[tuple[np.ndarray, Mapping[str, pa.Array], list[Problem]]]
"""Row numbers, the columns as the file has them, and rows that are not even rows."""


def _csv_batches(path: Path, names: list[str]) -> _Batches:
    misshapen: list[Problem] = []

    def refused(row: pa_csv.InvalidRow) -> str:
        what = f"{row.expected_columns} columns"
        misshapen.append(Problem(row.number, "", f"{row.actual_columns} columns", what))
        return "skip"

    reader = pa_csv.open_csv(
        path,
        read_options=pa_csv.ReadOptions(use_threads=False, block_size=BLOCK_BYTES),
        parse_options=pa_csv.ParseOptions(
            delimiter=DELIMITERS[_suffix(path)],
            newlines_in_values=True,
            # A blank line is a row, so that numbers are those that an editor shows.
            ignore_empty_lines=False,
            invalid_row_handler=refused,
        ),
        convert_options=pa_csv.ConvertOptions(
            # Bytes: type inference would make "007" 7, and one bad byte would spoil the file.
            column_types={name: pa.binary() for name in names},
            include_columns=names,
        ),
    )
    following, told = 2, 0
    for batch in reader:
        skipped = {one.row for one in misshapen}
        numbers = np.arange(following, following + len(batch) + len(skipped), dtype=np.int64)
        numbers = numbers[~np.isin(numbers, list(skipped))][: len(batch)]
        following = int(numbers[-1]) + 1 if len(numbers) else following
        # The parser runs ahead of the batch: what lies beyond it is told with its own.
        here = [one for one in misshapen if told <= one.row < following]
        told = following
        yield numbers, dict(zip(names, batch.columns, strict=True)), here
    rest = [one for one in misshapen if one.row >= told]
    if rest:
        yield np.zeros(0, np.int64), {name: pa.array([], pa.binary()) for name in names}, rest


def _parquet_batches(path: Path, names: list[str]) -> _Batches:
    following = 1
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(BATCH_ROWS, columns=names):
            numbers = np.arange(following, following + len(batch), dtype=np.int64)
            following += len(batch)
            columns = {name: batch.column(name) for name in names}
            plain = {
                name: one.dictionary_decode() if pa.types.is_dictionary(one.type) else one
                for name, one in columns.items()
            }
            yield numbers, plain, []


def _suffix(path: Path) -> str:
    name = path.name.lower().removesuffix(".gz")
    known = [*DELIMITERS, *PARQUET]
    found = next((one for one in known if name.endswith(one)), None)
    if found is None or (found in PARQUET and path.suffix == ".gz"):
        raise InteractionLogError(
            f"{path}: unknown format: a log is .csv, .tsv, .csv.gz, .tsv.gz or .parquet"
        )
    return found
