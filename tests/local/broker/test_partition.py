"""A partition under its topic's settings: what it takes, stamps, keeps and takes only once."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from record_batches import GZIP, batch, parsed

from tenuto.local.broker.errors import Code, RefusedError
from tenuto.local.broker.partition import Partition
from tenuto.local.broker.topic_settings import Effective, check

NOW_MS = 1_700_000_000_000
HOUR_MS = 3_600_000


def partition(**settings: str) -> Partition:
    return Partition(Effective.of({key.replace("_", "."): v for key, v in settings.items()}))


def append(to: Partition, written: bytes, now_ms: int = NOW_MS) -> Any:
    return to.append(memoryview(written), now_ms)


def refusal(to: Partition, written: bytes) -> Code:
    with pytest.raises(RefusedError) as caught:
        append(to, written)
    assert to.log.end == 0
    return caught.value.code


def records(of: Partition) -> list[Any]:
    return parsed(b"".join(of.log.read(of.log.start, 1 << 30, at_least_one=True)))


def flipped(written: bytes, at: int) -> bytes:
    return written[:at] + bytes([written[at] ^ 1]) + written[at + 1 :]


def test_a_producers_stamps_stand_on_a_create_time_topic() -> None:
    p = partition()
    assert append(p, batch([b"a", b"b"], [5, 3])) == (0, -1)
    assert [(r.offset, r.timestamp, r.timestamp_type) for r in records(p)] == [(0, 5, 0), (1, 3, 0)]


@pytest.mark.parametrize("compression", [0, GZIP])
def test_the_brokers_stamp_stands_on_a_log_append_time_topic(compression: int) -> None:
    p = partition(message_timestamp_type="LogAppendTime")
    assert append(p, batch([b"a", b"b"], [5, 3], compression=compression)) == (0, NOW_MS)
    assert [(r.timestamp, r.timestamp_type) for r in records(p)] == [(NOW_MS, 1)] * 2
    assert p.log.first_since(6) == (0, NOW_MS)


def test_a_stamp_too_far_ahead_of_the_brokers_clock_is_refused() -> None:
    ahead = batch([b"a", b"b"], [NOW_MS, NOW_MS + HOUR_MS + 1])
    assert refusal(partition(), ahead) is Code.INVALID_TIMESTAMP
    append(partition(message_timestamp_after_max_ms=str(2**63 - 1)), ahead)
    append(partition(message_timestamp_type="LogAppendTime"), ahead)


def test_a_stamp_too_far_behind_is_refused_wherever_in_the_batch_it_is() -> None:
    old = batch([b"a", b"b"], [NOW_MS, NOW_MS - 2 * HOUR_MS])
    append(partition(), old)
    limited = partition(message_timestamp_before_max_ms=str(HOUR_MS))
    assert refusal(limited, old) is Code.INVALID_TIMESTAMP


def test_a_batch_larger_than_max_message_bytes_is_refused() -> None:
    written = batch([b"x" * 1_000])
    p = partition(max_message_bytes=str(len(written) - 1))
    assert refusal(p, written) is Code.MESSAGE_TOO_LARGE
    append(partition(max_message_bytes=str(len(written))), written)


@pytest.mark.parametrize("at", [21, 60, -1])
def test_a_batch_that_does_not_match_its_crc_is_refused(at: int) -> None:
    written = batch([b"abc"])
    assert refusal(partition(), flipped(written, at % len(written))) is Code.CORRUPT_MESSAGE


@pytest.mark.parametrize(
    "written",
    [
        b"",
        b"\0" * 60,
        batch([b"a"])[:-1],
        batch([b"a"]) + batch([b"b"]),
        flipped(batch([b"a"]), 16),
    ],
    ids=["nothing", "less than a header", "torn", "two", "another format"],
)
def test_what_is_not_exactly_one_batch_is_refused(written: bytes) -> None:
    assert refusal(partition(), written) is Code.INVALID_RECORD


def test_a_compacted_topic_takes_no_record_without_a_key() -> None:
    p = partition(cleanup_policy="compact")
    assert refusal(p, batch([b"a"])) is Code.INVALID_RECORD
    append(p, batch([b"a"], key=b"k"))


def test_a_double_of_an_idempotent_producer_is_answered_with_where_it_is() -> None:
    p = partition(message_timestamp_type="LogAppendTime")
    sent = [batch([b"a", b"b"], producer=(7, 0, 2 * n)) for n in range(7)]
    where = [append(p, one, NOW_MS + n) for n, one in enumerate(sent)]
    assert [append(p, one, NOW_MS + 99) for one in sent[-5:]] == where[-5:]
    assert len(records(p)) == 14


@pytest.mark.parametrize(
    ("producer", "code"),
    [
        ((7, 1, 3), Code.OUT_OF_ORDER_SEQUENCE_NUMBER),
        ((7, 1, 1), Code.OUT_OF_ORDER_SEQUENCE_NUMBER),
        ((7, 0, 2), Code.INVALID_PRODUCER_EPOCH),
        ((7, 2, 2), Code.OUT_OF_ORDER_SEQUENCE_NUMBER),
    ],
    ids=["a hole", "an overlap", "a fenced epoch", "a new epoch not from 0"],
)
def test_a_sequence_that_is_not_the_next_is_refused(
    producer: tuple[int, int, int], code: Code
) -> None:
    p = partition()
    append(p, batch([b"a", b"b"], producer=(7, 1, 0)))
    with pytest.raises(RefusedError) as caught:
        append(p, batch([b"c"], producer=producer))
    assert caught.value.code is code
    append(p, batch([b"c"], producer=(7, 1, 2)))
    append(p, batch([b"d"], producer=(7, 2, 0)))
    append(p, batch([b"e"], producer=(8, 0, 5)))
    assert [r.value for r in records(p)] == [b"a", b"b", b"c", b"d", b"e"]


def test_sequences_begin_again_after_the_largest() -> None:
    p = partition()
    append(p, batch([b"a", b"b"], producer=(7, 0, 2**31 - 2)))
    append(p, batch([b"c"], producer=(7, 0, 0)))
    assert p.log.end == 3


def test_records_older_than_retention_go_from_the_front() -> None:
    p = partition(retention_ms=str(HOUR_MS))
    for age_ms in (3 * HOUR_MS, 2 * HOUR_MS, 0, 2 * HOUR_MS):
        append(p, batch([b"x", b"y"], [NOW_MS - age_ms] * 2))
    p.retain(NOW_MS)
    assert (p.log.start, p.log.end) == (4, 8)
    p.retain(NOW_MS + HOUR_MS + 1)
    assert (p.log.start, p.log.end, p.log.size_bytes) == (8, 8, 0)
    assert append(p, batch([b"z"])).offset == 8


def test_retention_by_size_keeps_at_least_that_much() -> None:
    size = len(batch([b"x"]))
    p = partition(retention_bytes=str(2 * size - 1))
    for _ in range(5):
        append(p, batch([b"x"]))
    p.retain(NOW_MS)
    assert (p.log.start, p.log.size_bytes) == (3, 2 * size)


def test_a_compacted_topic_is_not_cut() -> None:
    p = partition(cleanup_policy="compact", retention_ms="1", retention_bytes="1")
    append(p, batch([b"x"], key=b"k"))
    p.retain(NOW_MS + HOUR_MS)
    assert p.log.size_bytes > 0


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("retention.ms", "a while"),
        ("retention.ms", "-2"),
        ("max.message.bytes", str(2**31)),
        ("cleanup.policy", "delete,shred"),
        ("message.timestamp.type", "logappendtime"),
        ("preallocate", "maybe"),
        ("retention.msec", "1"),
        ("retention.ms", None),
    ],
)
def test_a_setting_that_kafka_would_not_take_is_refused(name: str, value: str | None) -> None:
    with pytest.raises(RefusedError) as caught:
        check({name: value})
    assert caught.value.code is Code.INVALID_CONFIG
    assert name in caught.value.message


def test_an_append_rewrites_the_leader_epoch_of_a_foreign_batch() -> None:
    written = bytearray(batch([b"a"]))
    struct.pack_into(">i", written, 12, 41)
    p = partition()
    append(p, bytes(written))
    (kept,) = p.log.read(0, 1 << 20, at_least_one=True)
    assert struct.unpack_from(">i", kept, 12) == (0,)
