from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kafka.partitioner.default import murmur2 as kafka_murmur2

from tenuto.streams.partitions import murmur2, murmur2_all, partition_of


@given(st.binary(max_size=300))
def test_one_key_hashes_as_in_kafka_python(key: bytes) -> None:
    assert murmur2(key) == kafka_murmur2(key)


@given(st.lists(st.binary(max_size=9), max_size=200))
def test_keys_of_mixed_lengths_hash_in_bulk_as_one_by_one(keys: list[bytes]) -> None:
    assert murmur2_all(keys).tolist() == [kafka_murmur2(key) for key in keys]


@pytest.mark.parametrize("length", [*range(10), 36, 255, 1024])
@given(seed=st.binary(min_size=4, max_size=4))
def test_many_keys_of_one_length_hash_in_bulk_as_one_by_one(length: int, seed: bytes) -> None:
    keys = [(bytes([n]) + seed * length)[:length] for n in range(60)]
    assert murmur2_all(keys).tolist() == [kafka_murmur2(key) for key in keys]


@given(st.lists(st.text(max_size=12), max_size=80), st.integers(1, 48))
def test_a_request_is_in_the_partition_where_kafka_python_puts_its_key(
    texts: list[str], n_partitions: int
) -> None:
    ids = [text for text in texts if not any("\ud800" <= c <= "\udfff" for c in text)]
    expected = [(kafka_murmur2(text.encode()) & 0x7FFFFFFF) % n_partitions for text in ids]
    assert partition_of(ids, n_partitions).tolist() == expected


def test_no_ids_have_no_partitions() -> None:
    assert partition_of([], 4).shape == (0,)
