"""Scripts called with packed arguments, and the batches that are cut for them."""

from __future__ import annotations

import zlib

import pytest
import redis

from tenuto import local
from tenuto.features.aggregate import Deltas
from tenuto.features.chunks import cut
from tenuto.features.packed_script import PackedScript, argument
from tenuto.features.rules import TimeRules
from tenuto.features.schema import FeatureSet
from tenuto.features.store import Elsewhere, Store
from tenuto.presets import video

LIFE = b"incarnation-0001"


def test_a_script_gets_its_keys_and_arguments_byte_for_byte(redis_url: str) -> None:
    script = PackedScript(redis.Redis.from_url(redis_url), "return {KEYS[1], KEYS[2], ARGV[1]}")
    values = [b"", b"a\r\n$3\r\nb", b"\x00\xff" * 1000]
    packed = b"".join(map(argument, values))
    assert script(2, 1, packed) == values


def test_a_script_that_redis_has_forgotten_is_loaded_again(redis_url: str) -> None:
    client = redis.Redis.from_url(redis_url)
    script = PackedScript(client, "return redis.call('INCR', KEYS[1])")
    assert script(1, 0, argument(b"n")) == 1
    client.script_flush()
    assert script(1, 0, argument(b"n")) == 2


def test_a_restarted_redis_is_found_empty_not_unreachable(embedded: local.LocalStack) -> None:
    layout = FeatureSet.of(video.small, TimeRules()).layout
    store = Store(redis.Redis.from_url(embedded.redis_url), layout, 1, "restarted")
    slot = store.slot("clicks", 0)
    entry = store.apply(slot, store.begin(slot, LIFE, 0), 5, 1, Deltas([], []))
    assert entry.next == 5
    embedded.restart_redis()
    with pytest.raises(Elsewhere) as elsewhere:
        store.apply(slot, entry, 6, 1, Deltas([], []))
    assert elsewhere.value.entry is None


@pytest.mark.parametrize("chunks", [0, 7])
def test_every_entity_is_in_the_chunk_that_its_hash_names(chunks: int) -> None:
    keys = [b"0:%d" % at for at in range(950)]
    deltas = Deltas(keys, [b"<%s>" % key for key in keys])
    found = cut(deltas, b"p", chunks)
    assert len(found) == (chunks or 10)
    for at, chunk in enumerate(found):
        own = [key for key in keys if zlib.crc32(key) % len(found) == at]
        assert chunk.entities == len(own)
        assert chunk.keys == b"".join(argument(b"p" + key) for key in own)
        assert chunk.packed == b"".join(b"<%s>" % key for key in own)


def test_large_entities_are_cut_into_more_chunks() -> None:
    keys = [b"0:%d" % at for at in range(90)]
    found = cut(Deltas(keys, [bytes(100_000)] * 90), b"p")
    assert max(len(chunk.packed) for chunk in found) <= 1 << 20
