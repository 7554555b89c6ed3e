"""The log against a plain list of records, and how much it looks at."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from record_batches import GZIP, batch, parsed

from tenuto.local.broker.batch import max_timestamp
from tenuto.local.broker.partition_log import PartitionLog

stamps = st.lists(st.integers(0, 50), min_size=1, max_size=4)


def append(log: PartitionLog, timestamps_ms: list[int], compression: int = 0) -> int:
    values = [b"%d" % stamp for stamp in timestamps_ms]
    written = bytearray(batch(values, timestamps_ms, compression=compression))
    return log.append(written, len(values), max(timestamps_ms))


class LogAgainstAList(RuleBasedStateMachine):
    """``batches`` holds (first offset, timestamps) of what must still be there."""

    def __init__(self) -> None:
        super().__init__()
        self.log = PartitionLog()
        self.batches: list[tuple[int, list[int], int]] = []
        self.start = self.end = 0

    def records(self) -> list[tuple[int, int]]:
        return [
            (base + at, stamp)
            for base, timestamps_ms, _ in self.batches
            for at, stamp in enumerate(timestamps_ms)
            if base + at >= self.start
        ]

    def drop_while(self, old: Any) -> None:
        """As retention does it: from the front, whole batches, while they are to go."""
        while self.batches and old(self.batches):
            self.batches.pop(0)
            self.start = max(self.start, self.batches[0][0] if self.batches else self.end)

    @rule(timestamps_ms=stamps, compression=st.sampled_from([0, GZIP]))
    def append(self, timestamps_ms: list[int], compression: int) -> None:
        size = len(
            batch([b"%d" % s for s in timestamps_ms], timestamps_ms, compression=compression)
        )
        assert append(self.log, timestamps_ms, compression) == self.end
        self.batches.append((self.end, timestamps_ms, size))
        self.end += len(timestamps_ms)

    @rule(share=st.floats(0, 1))
    def delete(self, share: float) -> None:
        offset = self.start + round(share * (self.end - self.start))
        self.log.delete_before(offset)
        self.start = offset
        self.batches = [b for b in self.batches if b[0] + len(b[1]) > offset]

    @rule(before_ms=st.integers(0, 51))
    def expire(self, before_ms: int) -> None:
        self.log.expire(before_ms)
        self.drop_while(lambda batches: max(batches[0][1]) < before_ms)

    @rule(keep_bytes=st.integers(0, 600))
    def shrink(self, keep_bytes: int) -> None:
        self.log.shrink(keep_bytes)
        self.drop_while(lambda batches: sum(b[2] for b in batches[1:]) >= keep_bytes)

    @rule(share=st.floats(0, 1), max_bytes=st.integers(0, 400), at_least_one=st.booleans())
    def read(self, share: float, max_bytes: int, at_least_one: bool) -> None:
        offset = self.start + round(share * (self.end - self.start))
        wanted = [b for b in self.batches if b[0] + len(b[1]) > offset]
        size, count = 0, 0
        while count < len(wanted) and size + wanted[count][2] <= max_bytes:
            size += wanted[count][2]
            count += 1
        count = max(count, int(at_least_one and bool(wanted)))
        expected = [
            (base + at, stamp) for base, s, _ in wanted[:count] for at, stamp in enumerate(s)
        ]
        read = self.log.read(offset, max_bytes, at_least_one=at_least_one)
        assert [(r.offset, r.timestamp) for r in parsed(b"".join(read))] == expected
        assert self.log.bytes_from(offset) == sum(b[2] for b in wanted)

    @rule(since_ms=st.integers(0, 51))
    def look_up(self, since_ms: int) -> None:
        expected = next((r for r in self.records() if r[1] >= since_ms), None)
        assert self.log.first_since(since_ms) == expected

    @invariant()
    def it_begins_and_ends_where_the_list_does(self) -> None:
        assert (self.log.start, self.log.end) == (self.start, self.end)
        assert self.log.size_bytes == sum(size for _, _, size in self.batches)

    @invariant()
    def its_newest_record_is_the_lists(self) -> None:
        expected = max(self.records(), key=lambda record: (record[1], -record[0]), default=None)
        assert self.log.newest() == expected


TestLogAgainstAList = LogAgainstAList.TestCase


class Counted(list[int]):
    """A list that counts how often somebody looks at an item."""

    looks = 0

    def __getitem__(self, index: Any) -> Any:
        self.looks += 1
        return super().__getitem__(index)


@pytest.mark.parametrize("n_batches", [100, 20_000])
def test_a_read_looks_at_a_few_batches_however_many_there_are(n_batches: int) -> None:
    log = PartitionLog()
    one = batch([b"x"])
    for _ in range(n_batches):
        log.append(bytearray(one), 1, 0)
    log._bases, log._byte_ends = Counted(log._bases), Counted(log._byte_ends)
    (read,) = log.read(log.end - 1, 1 << 20, at_least_one=True)
    assert parsed(bytes(read))[0].offset == n_batches - 1
    log.bytes_from(n_batches // 2)
    assert log._bases.looks + log._byte_ends.looks < 100


def test_an_append_rewrites_the_base_offset_and_nothing_that_the_crc_covers() -> None:
    log = PartitionLog()
    append(log, [1, 2])
    log.append(bytearray(batch([b"a", b"b"], [7, 9])), 2, 9)
    first, second = log.read(0, 1 << 20, at_least_one=True)
    assert [record.offset for record in parsed(bytes(first + second))] == [0, 1, 2, 3]
    assert max_timestamp(second) == 9


@given(st.lists(stamps, min_size=1, max_size=30))
def test_lookups_after_deletions_forget_how_new_the_deleted_was(
    all_stamps: list[list[int]],
) -> None:
    log = PartitionLog()
    append(log, [1_000])
    for timestamps_ms in all_stamps:
        append(log, timestamps_ms)
    log.delete_before(1)
    flat = [stamp for timestamps_ms in all_stamps for stamp in timestamps_ms]
    assert log.newest() == (1 + flat.index(max(flat)), max(flat))
    assert log.first_since(51) is None
