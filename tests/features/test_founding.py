"""A store is founded on nothing: what an earlier one has left is deleted before anything counts."""

from __future__ import annotations

import pytest
import redis

from tenuto.features.entities import Entity, count
from tenuto.features.events import Event
from tenuto.features.founding import Founding
from tenuto.features.layout import Layout
from tenuto.features.progress import ENTRY_BYTES
from tenuto.features.rules import TimeRules
from tenuto.features.store import Store, StoreError
from tenuto.features.windows import Window

LIFE = b"incarnation-0001"
clicks = Event("clicks")
item = Entity("item", "item_id", {"clicks": count(clicks)})
LAYOUT = Layout.of([(item.clicks, Window.of("1h"))], TimeRules())


@pytest.fixture
def store(redis_url: str) -> Store:
    return Store(redis.Redis.from_url(redis_url), LAYOUT, 2, "founding")


def leave(store: Store, name: str, n: int = 50) -> None:
    """Entities of that name, as whoever was there before has left them."""
    for number in range(n):
        store.client.set(store.prefix + f"0:{name}{number}".encode(), b"left")


def left(store: Store) -> set[bytes]:
    return {key for key in store.all_keys() if key != store.progress_key}


def founding(store: Store) -> Founding:
    return Founding(store.client, store.prefix, store.progress_key, 2 * ENTRY_BYTES)


def test_what_is_left_of_an_earlier_store_is_deleted_before_its_first_partition(
    store: Store,
) -> None:
    leave(store, "old")
    store.client.set("another", "key")
    store.begin(store.slot("clicks", 1), LIFE, 7)
    assert not left(store)
    assert store.client.get("another") == b"key"
    leave(store, "new")
    store.begin(store.slot("clicks", 0), LIFE, 7)
    assert len(left(store)) == 50, "the store is there: its entities are its own"


def test_a_reset_is_whole_once_another_partition_is_entered(store: Store) -> None:
    store.begin(store.slot("clicks", 0), LIFE, 7)
    leave(store, "old")
    store.clear()
    assert store.entry(store.slot("clicks", 0)) is None
    store.begin(store.slot("clicks", 1), LIFE, 0)
    assert not left(store)


def test_whoever_founds_more_slowly_deletes_nothing_of_what_has_come(store: Store) -> None:
    leave(store, "old")
    slow = founding(store)
    cursor, lives = slow.step(b"0", b"", 10)
    assert cursor not in (b"", b"0")
    founding(store).found()
    leave(store, "new")
    assert slow.step(cursor, lives, 10)[0] == b""
    assert len(left(store)) == 50


def test_whoever_was_overtaken_by_a_store_that_is_gone_again_begins_anew(store: Store) -> None:
    leave(store, "old", 200)
    slow = founding(store)
    cursor, lives = slow.step(b"0", b"", 10)
    founding(store).found()
    # In places that the slow one has looked at too.
    leave(store, "new", 200)
    store.clear()
    for _ in range(1_000):
        if not cursor:
            break
        cursor, lives = slow.step(cursor, lives, 10)
    assert store.client.exists(store.progress_key)
    assert not left(store)


@pytest.mark.parametrize("value", [b"foreign", bytes(3 * ENTRY_BYTES)])
def test_progress_of_another_length_is_refused_and_not_padded(store: Store, value: bytes) -> None:
    leave(store, "own")
    store.client.set(store.progress_key, value)
    with pytest.raises(StoreError, match=f"has {len(value)} bytes: must be 144"):
        store.entry(store.slot("clicks", 0))
    with pytest.raises(redis.ResponseError, match="TENUTO"):
        store.begin(store.slot("clicks", 0), LIFE, 0)
    assert store.client.get(store.progress_key) == value
    assert len(left(store)) == 50
