"""Redis as a canonical dump, against the log."""

from __future__ import annotations

import pytest
from feature_world import START_MS, World
from test_audit_features import busy, the_one

from tenuto.presets import video


@pytest.mark.parametrize("preset", ["small", "full"])
@pytest.mark.parametrize("seed", [1, 2])
def test_the_stored_state_is_that_of_the_log(redis_url: str, preset: str, seed: int) -> None:
    findings = busy(redis_url, getattr(video, preset), seed).audit_state()
    assert findings.clean, findings.table()
    assert findings.checked["state"] > 10
    assert findings.checked["progress"] == 4


def test_a_batch_in_progress_is_dumped_as_far_as_it_went(redis_url: str) -> None:
    world = World(redis_url, video.small)
    for at in range(600):
        world.write("impressions", START_MS + at, item_id=f"i{at % 300}", user_id=f"u{at % 200}")
    world.apply("impressions", chunks=3)
    findings = world.audit_state()
    assert findings.clean, findings.table()
    assert 50 < findings.checked["state"] < 1_000


def test_swept_entities_are_equal_and_lost_ones_are_not(redis_url: str) -> None:
    world = World(redis_url, video.small)
    world.write("impressions", START_MS, item_id="old")
    world.apply_all()
    later = START_MS + 30 * 86_400_000
    for topic in world.records:
        world.write(topic, later, item_id="new")
    world.apply_all()
    assert world.store.sweep(later, count=10_000).deleted == 2
    assert world.audit_state().clean
    (lost,) = [
        key for key in world.store.all_keys() if key.endswith(b":new") and b":1:q" not in key
    ]
    world.redis.delete(lost)
    assert "impressions" in the_one(world.audit_state(), "mismatching", "state")


def test_swept_entities_that_come_back_are_equal(redis_url: str) -> None:
    """Some come back so soon that their ring would still hold what was swept."""
    world = World(redis_url, video.small)
    hours = range(7 * 24, 9 * 24)
    for hour in hours:
        world.write("impressions", START_MS, item_id=f"old{hour}")
    world.apply_all()
    swept = 0
    for hour in hours:
        now = START_MS + hour * 3_600_000
        for topic in world.records:
            world.write(topic, now, item_id="new")
        world.apply_all()
        swept += world.store.sweep(now, count=10_000).deleted
        world.write("impressions", now, item_id=f"old{hour}")
        world.apply_all()
        findings = world.audit_state()
        assert findings.clean, findings.table()
    assert swept > 20


def test_progress_that_moved_before_its_deltas_is_found(redis_url: str) -> None:
    world = World(redis_url, video.small)
    for at in range(3):
        world.write("clicks", START_MS + at)
    world.apply("clicks", 2)
    slot, entry = world.store.slot("clicks", 0), world.entries["clicks"]
    world.store.replace(
        slot, entry, type(entry)(*entry_fields(entry, next=3, arrival=START_MS + 2))
    )
    assert "expected 3, found 2" in the_one(world.audit_state(), "mismatching", "state")


def test_what_retention_took_is_unverifiable_and_what_came_after_it_is_not(redis_url: str) -> None:
    world = busy(redis_url)
    # Retention leaves the last record, and what comes an hour later.
    world.records["impressions"] = world.records["impressions"][-1:]
    later = world.records["impressions"][0].timestamp_ms + 3_600_000
    for at in range(3):
        world.write("impressions", later + at, item_id="late")
    world.apply_all()
    findings = world.audit_state()
    assert findings.clean, findings.table()
    assert findings.unverifiable["state"] > 0
    world.write("impressions", later + 3, item_id="late")
    slot, entry = world.store.slot("impressions", 0), world.entries["impressions"]
    moved = entry_fields(entry, next=entry.next + 1, arrival=later + 3)
    world.store.replace(slot, entry, type(entry)(*moved))
    assert world.audit_state().found["state", "mismatching"] > 0


def test_a_wrong_arrival_and_foreign_bytes_are_found(redis_url: str) -> None:
    world = busy(redis_url)
    slot, entry = world.store.slot("clicks", 0), world.entries["clicks"]
    world.store.replace(slot, entry, type(entry)(*entry_fields(entry, arrival=entry.arrival + 1)))
    world.redis.set(world.store.prefix + b"77:x", b"?")
    findings = world.audit_state()
    assert "arrival: expected" in the_one(findings, "mismatching", "progress")
    assert the_one(findings, "extra", "state") == "no entity of the layout"


def entry_fields(entry: object, **changes: int) -> list[object]:
    names = ("incarnation", "origin", "origin_arrival", "next", "arrival", "rebuild_until",
             "batch_end", "chunks", "done")  # fmt: skip
    return [changes.get(name, getattr(entry, name)) for name in names]
