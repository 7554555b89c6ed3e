"""Scripts called with packed arguments, and the batches that are cut for them."""

from __future__ import annotations

import zlib
from typing import Any

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


def replies_of(script: PackedScript, calls: list[tuple[int, bytes]], n_arguments: int) -> list[Any]:
    """Of all calls, each of which must have left the list."""
    found: list[Any] = []
    script.run(calls, n_arguments, found.append)
    assert calls == []
    return found


def test_a_script_gets_its_keys_and_arguments_byte_for_byte(redis_url: str) -> None:
    script = PackedScript(redis.Redis.from_url(redis_url), "return {KEYS[1], KEYS[2], ARGV[1]}")
    values = [b"", b"a\r\n$3\r\nb", b"\x00\xff" * 1000]
    packed = b"".join(map(argument, values))
    assert replies_of(script, [(2, packed)], 1) == [values]


@pytest.mark.parametrize("calls", [1, 2, 7])
def test_a_script_that_redis_has_forgotten_is_loaded_again(redis_url: str, calls: int) -> None:
    client = redis.Redis.from_url(redis_url)
    script = PackedScript(client, "return redis.call('INCR', KEYS[1])")
    key = argument(b"n%d" % calls)
    assert replies_of(script, [(1, key)] * calls, 0) == list(range(1, calls + 1))
    client.script_flush()
    assert replies_of(script, [(1, key)], 0) == [calls + 1]


def test_an_error_leaves_the_calls_that_were_not_accepted_and_no_reply_to_anybody(
    redis_url: str,
) -> None:
    client = redis.Redis.from_url(redis_url)
    script = PackedScript(client, "return redis.call('INCR', KEYS[1])")
    client.set("no number", "x")
    keys = [b"a1", b"no number", b"a2", b"a3", b"a4", b"never sent"]
    calls = [(1, argument(key)) for key in keys]
    found: list[Any] = []
    with pytest.raises(redis.ResponseError, match="not an integer"):
        script.run(calls, 0, found.append)
    assert (found, len(calls)) == ([1], 5)
    assert replies_of(script, [(1, argument(b"b"))], 0) == [1]
    assert client.get("never sent") is None


def test_a_caller_that_will_not_go_on_leaves_no_reply_to_anybody(redis_url: str) -> None:
    client = redis.Redis.from_url(redis_url)
    script = PackedScript(client, "return redis.call('INCRBY', KEYS[1], 7)")

    def refuse(_reply: Any) -> None:
        raise Elsewhere(None)

    with pytest.raises(Elsewhere):
        script.run([(1, argument(b"c%d" % at)) for at in range(5)], 0, refuse)
    assert client.get("c4") is None
    assert replies_of(script, [(1, argument(b"d"))], 0) == [7]


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
