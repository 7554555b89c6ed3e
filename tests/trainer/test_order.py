"""The canonical order against a naive sort of everything, however the log was cut and read."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby, pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sample_rows import Asked, batch_of, spec_with

from tenuto.snapshot.chain import Chain, Kind
from tenuto.snapshot.sample_record import Interval
from tenuto.trainer.batching import Batcher
from tenuto.trainer.order import Merge, OrderError
from tenuto.trainer.rows import Rows, concat, rows_of

SPEC = spec_with()
Key = tuple[int, int, int, int]
Piece = tuple[int, Interval, Rows | None]


@dataclass(frozen=True)
class Log:
    """One partition's snapshots, up to its end mark at ``end - 1``, which arrived at ``end_ms``."""

    partition: int
    asked: tuple[Asked, ...]
    end: int
    end_ms: int

    def interval(self, start: int, stop: int, promise: float) -> Interval:
        """Of ``[start, stop)``; promises any time between what came and what comes next."""
        before = [one.arrival_ms for one in self.asked if one.offset < stop]
        after = [one.arrival_ms for one in self.asked if one.offset >= stop] or [self.end_ms]
        low, high = max(before, default=0), min(after)
        is_end = stop == self.end
        arrival_ms = self.end_ms if is_end else low + int(promise * (high - low))
        return Interval(start, stop, arrival_ms, is_end)

    def rows(self, start: int, stop: int) -> Rows | None:
        inside = [one for one in self.asked if start <= one.offset < stop]
        return rows_of(batch_of(inside, self.partition), SPEC) if inside else None


def naive_order(logs: list[Log]) -> list[Key]:
    """Every row of the logs, sorted."""
    rows = [
        (one.arrival_ms // 1000, log.partition, one.offset, item)
        for log in logs
        for one in log.asked
        for item in range(one.items)
    ]
    return sorted(rows)


def keys(rows: Rows) -> list[Key]:
    columns = (rows.arrival_ms // 1000, rows.partition, rows.offset, rows.item_index)
    return list(zip(*(column.tolist() for column in columns), strict=True))


@st.composite
def logs(draw: st.DrawFn) -> list[Log]:
    found = []
    for partition in range(draw(st.integers(1, 3))):
        offset, arrival_ms, asked = -1, 5_000, []
        for _ in range(draw(st.integers(0, 8))):
            offset += draw(st.sampled_from([1, 1, 2, 7]))
            arrival_ms += draw(st.sampled_from([0, 0, 300, 999, 1000, 4700]))
            asked.append(Asked(offset, arrival_ms, draw(st.integers(1, 4))))
        end = offset + 1 + draw(st.integers(1, 3))
        found.append(Log(partition, tuple(asked), end, arrival_ms + draw(st.integers(0, 3000))))
    return found


@st.composite
def records_of(draw: st.DrawFn, log: Log) -> list[Interval]:
    """A chain over the log, with a zombie's and a restarted joiner's records in between."""

    def chain() -> list[Interval]:
        cuts = draw(st.lists(st.integers(1, log.end - 1), max_size=5)) if log.end > 1 else []
        edges = sorted({0, log.end, *cuts})
        return [log.interval(a, b, draw(st.sampled_from([0, 0.5, 1]))) for a, b in pairwise(edges)]

    records = chain()
    for _ in range(draw(st.integers(0, 3))):
        records.insert(draw(st.integers(1, len(records))), draw(st.sampled_from(chain())))
    for at in draw(st.lists(st.integers(1, len(records)), max_size=2)):
        # Progress: nothing new but how far time is.
        offset = records[at - 1].end
        if offset < log.end:
            records.insert(at, log.interval(offset, offset, draw(st.sampled_from([0, 0.5, 1]))))
    return records


@st.composite
def readings(draw: st.DrawFn) -> tuple[list[Log], list[Piece]]:
    """Logs, and their pieces as a reader of all partitions comes upon them."""
    found = draw(logs())
    left = [(log, Chain(), draw(records_of(log))) for log in found]
    pieces = []
    while left := [one for one in left if one[2]]:
        log, chain, records = draw(st.sampled_from(left))
        interval = records.pop(0)
        verdict = chain.take(interval)
        if verdict.kind is Kind.NEW:
            batch = log.rows(interval.start, interval.end)
            if batch is not None:
                # As the reader does, over rows instead of an Arrow batch.
                batch = batch.slice(int(batch.offset.searchsorted(verdict.since)), len(batch))
            pieces.append((log.partition, interval, batch))
    return found, pieces


def merged(partitions: list[int], pieces: list[Piece], closes: list[bool]) -> list[Rows]:
    merge, out = Merge(partitions), []
    for number, (partition, interval, rows) in enumerate(pieces):
        merge.add(partition, rows, interval.arrival_ms, ended=interval.is_end)
        if closes[number % len(closes)] and (closed := merge.close()) is not None:
            out.append(closed)
    last = merge.close()
    assert merge.ended
    assert merge.waiting == 0
    return [*out, last] if last is not None else out


CLOSES = st.lists(st.booleans(), min_size=1, max_size=5)


@given(readings(), CLOSES)
def test_the_merge_gives_what_a_sort_of_everything_gives(
    reading: tuple[list[Log], list[Piece]], closes: list[bool]
) -> None:
    found, pieces = reading
    out = merged([log.partition for log in found], pieces, closes)
    assert [key for rows in out for key in keys(rows)] == naive_order(found)


@given(readings(), CLOSES, st.integers(1, 9))
def test_batches_depend_on_the_rows_alone(
    reading: tuple[list[Log], list[Piece]], closes: list[bool], size: int
) -> None:
    found, pieces = reading
    batcher, batches = Batcher(size), []
    for rows in merged([log.partition for log in found], pieces, closes):
        batches += [keys(batch) for batch in batcher.add(rows)]
    if (short := batcher.flush()) is not None:
        batches.append(keys(short))

    requests = [list(rows) for _, rows in groupby(naive_order(found), lambda key: key[1:3])]
    expected: list[list[Key]] = []
    for request in requests:
        if not expected or len(expected[-1]) >= size:
            expected.append([])
        expected[-1] += request
    assert batches == expected


def rows(partition: int, *asked: Asked) -> Rows:
    return rows_of(batch_of(asked, partition), SPEC)


def test_a_second_waits_for_the_partition_that_holds_everyone_up() -> None:
    merge = Merge([0, 1])
    merge.add(0, rows(0, Asked(0, 1200), Asked(1, 3100)), 5000)
    assert merge.close() is None
    assert (merge.holds_up, merge.waiting) == (1, 2)
    merge.add(1, None, 3999)
    closed = merge.close()
    assert closed is not None
    assert closed.arrival_ms.tolist() == [1200]
    assert (merge.front_ms, merge.waiting) == (3000, 1)
    merge.add(1, None, 4000)
    closed = merge.close()
    assert closed is not None
    assert closed.arrival_ms.tolist() == [3100]


def test_an_ended_partition_holds_nobody_up() -> None:
    merge = Merge([0, 1])
    merge.add(0, None, 1000, ended=True)
    merge.add(1, rows(1, Asked(0, 9000)), 10_000)
    closed = merge.close()
    assert closed is not None
    assert closed.partition.tolist() == [1]
    assert merge.holds_up == 1
    assert not merge.ended


def test_only_partitions_that_run_ahead_are_not_to_be_read() -> None:
    merge = Merge([0, 1, 2])
    merge.add(0, rows(0, *(Asked(n, 5000) for n in range(10))), 6000)
    merge.add(1, rows(1, *(Asked(n, 500) for n in range(10))), 500)
    assert merge.ahead(9) == {0}
    assert merge.ahead(10) == set()
    merge.add(1, None, 500, ended=True)
    assert merge.ahead(10) == {1}
    assert merge.ahead(9) == {0, 1}


def test_a_row_from_before_its_partitions_promise_is_refused() -> None:
    merge = Merge([0])
    merge.add(0, rows(0, Asked(0, 2000)), 4000)
    with pytest.raises(
        OrderError, match=r"samples\[0\]@7: snapshot arrivals fall: 3999 after 4000"
    ):
        merge.add(0, rows(0, Asked(1, 3999)), 4000, place="samples[0]@7")


def test_a_batch_is_rounded_up_to_the_whole_request() -> None:
    rows = rows_of(batch_of([Asked(0, 0, 3), Asked(1, 0, 4), Asked(2, 0, 1)]), SPEC)
    batcher = Batcher(4)
    assert [len(batch) for batch in batcher.add(rows)] == [7]
    assert batcher.waiting == 1
    assert np.array_equal(concat([batcher.flush()]).offset, [2])  # type: ignore[list-item]
    assert batcher.flush() is None


def test_a_batch_has_a_row_at_least() -> None:
    with pytest.raises(ValueError, match="batches of 0 rows: must be ≥ 1"):
        Batcher(0)
