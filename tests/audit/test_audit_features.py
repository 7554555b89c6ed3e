"""Planted faults in what snapshots say of their features: each is found and named."""

from __future__ import annotations

import random
import struct
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from feature_world import LIFE, START_MS, World

from tenuto.features.entities import Counter
from tenuto.features.feature import Feature, counter_definition
from tenuto.features.windows import Window
from tenuto.presets import video
from tenuto.snapshot.audit.findings import Findings, Kind
from tenuto.snapshot.audit.log import PartitionLog, RecordedLog, TopicLog

HOUR_MS = 3_600_000


def busy(url: str, features: Any = video.small, seed: int = 1, **store: Any) -> World:
    """Some days of events and a read after each batch of them."""
    rnd, world, now = random.Random(seed), World(url, features, **store), START_MS
    for _ in range(25):
        now += rnd.choice([900, 10_000, 60_000, HOUR_MS, 40_000_000])
        for topic in world.records:
            for _ in range(rnd.randrange(6)):
                world.write(
                    topic, now - rnd.randrange(800), item_id=rnd.choice("abc"),
                    user_id=rnd.choice(["u", "v"]), query=rnd.choice(["q", "p"]),
                    position=rnd.choice([None, 0, 1, 3, 20]),
                )  # fmt: skip
            world.apply(topic)
        published = [rnd.choice([None, now - 5_000]) for _ in range(3)]
        world.read(now + rnd.randrange(2_000), ["a", "b", "never"], published_ts=published)
    return world


def the_one(findings: Findings, kind: Kind, check: str) -> str:
    """The text of the first such finding."""
    texts = [f.text for f in findings.shown if (f.kind, f.check) == (kind, check)]
    assert texts, findings.table()
    return texts[0]


@pytest.mark.parametrize("preset", ["small", "full"])
def test_what_the_reader_read_is_equal_bit_for_bit(redis_url: str, preset: str) -> None:
    world = busy(redis_url, getattr(video, preset))
    findings = world.audit()
    assert findings.clean, findings.table()
    values = 25 * 3 * len(world.features.columns)
    assert findings.checked["values"] == findings.checked["states"] == values
    assert findings.checked["positions"] == findings.checked["schema"] == 25


def test_a_batch_in_progress_is_part_of_the_prefix(redis_url: str) -> None:
    world = World(redis_url, video.small)
    for at in range(600):
        world.write("impressions", START_MS + at, item_id=f"i{at % 300}", user_id=f"u{at % 200}")
    world.apply("impressions", chunks=3)
    items = [f"i{at}" for at in range(0, 300, 3)]
    world.read(START_MS + 700, items)
    assert world.last["log"]["batches"][0][3] == 3
    counts = [world.value(at, "item_impressions_1h") for at in range(len(items))]
    assert 0 < counts.count(2.0) < len(items)
    assert world.audit().clean
    # As if the whole batch had not begun.
    world.tamper(log={**world.last["log"], "batches": []})
    assert "leaking" in {f.kind for f in world.audit().shown}


def test_a_value_that_includes_an_event_past_its_positions_leaks(redis_url: str) -> None:
    world = busy(redis_url)
    for at in range(3):
        world.write("clicks", START_MS + 10**10 + at, item_id="a")
    world.apply_all()
    world.read(START_MS + 10**10 + 500)
    last = world.last["log"]
    clicks = last["topics"].index("clicks")
    told = list(last["next"])
    told[clicks] -= 1
    world.tamper(log={**last, "next": told})
    findings = world.audit()
    text = the_one(findings, "leaking", "values")
    assert f"clicks[0]@{told[clicks]} of a" in text
    assert "tiles (" in text
    assert not findings.of("mismatching")


def test_a_delta_applied_twice_is_named(redis_url: str) -> None:
    world = World(redis_url, video.small)
    for at in range(6):
        world.write("impressions", START_MS + 1_000 * at)
    world.apply("impressions", 4)
    slot, before = world.store.slot("impressions", 0), world.entries["impressions"]
    world.apply("impressions", 6)
    world.store.replace(slot, world.entries["impressions"], before)
    world.entries["impressions"] = before
    world.apply("impressions", 6)
    world.read(START_MS + 7_000)
    text = the_one(world.audit(), "mismatching", "values")
    assert "impressions[0]@4" in text
    assert "impressions[0]@5" in text
    assert "counted twice" in text
    assert "expected 6, found 8" in the_one(world.audit_state(), "mismatching", "state")


def test_a_wrong_window_edge_is_named(redis_url: str) -> None:
    world = World(redis_url, video.small)
    window = Window.of("1h")
    now = START_MS - START_MS % HOUR_MS
    # One in the tile that has just left the window, and others well inside.
    world.write("impressions", now - HOUR_MS)
    world.write("impressions", now - 600_000)
    world.apply_all()
    world.read(now)
    assert world.audit().clean
    world.set_value(0, "item_impressions_1h", 2.0)
    text = the_one(world.audit(), "mismatching", "values")
    low = now // window.tile_ms - 60
    assert f"tiles ({low - 1}, {low + 60}]" in text
    assert "another window" in text


def test_a_tile_beyond_as_of_leaks(redis_url: str) -> None:
    world = World(redis_url, video.small)
    now = START_MS - START_MS % HOUR_MS
    world.write("impressions", now - 600_000)
    world.write("impressions", now + 2_000)
    world.apply_all()
    world.read(now - 1)
    assert world.audit().clean
    world.set_value(0, "item_impressions_1h", 2.0)
    text = the_one(world.audit(), "leaking", "values")
    assert "impressions[0]@1" in text
    assert "beyond as_of" in text


@pytest.mark.parametrize("column", ["item_ctr_1h", "item_coec_1d", "item_impressions_5m", "hour"])
def test_a_value_off_by_one_bit_is_found(redis_url: str, column: str) -> None:
    world = busy(redis_url)
    for at in range(7):
        world.write("impressions", START_MS + 10**10 + at, item_id="a")
    world.apply_all()
    world.read(START_MS + 10**10 + 20)
    value = world.value(0, column)
    world.set_value(0, column, float(np.nextafter(np.float32(value), np.float32(9e9))))
    findings = world.audit()
    assert the_one(findings, "mismatching", "values").startswith(f"{column} of a")
    assert findings.of("mismatching") == 1


def test_a_nan_with_other_bits_is_found(redis_url: str) -> None:
    world = busy(redis_url)
    world.read(START_MS + 10**10, ["never"])
    at = 4 * world.features.names.index("item_age")
    values = bytearray(world.last["values"])
    assert values[at : at + 4] == struct.pack("<I", 0x7FC00000)
    values[at] = 1
    world.tamper(values=bytes(values))
    assert "0x7fc00001" in the_one(world.audit(), "mismatching", "values")


@pytest.mark.parametrize(("found", "name"), [(1, "missing"), (2, "stale"), (3, "rebuilding")])
def test_a_wrong_state_is_found(redis_url: str, found: int, name: str) -> None:
    world = busy(redis_url)
    world.write("clicks", START_MS + 10**10, item_id="a")
    world.write("impressions", START_MS + 10**10, item_id="a")
    world.apply_all()
    world.read(START_MS + 10**10)
    states = bytearray(world.last["states"])
    at = world.features.names.index("item_clicks_1h")
    assert states[at] == 0
    states[at] = found
    world.tamper(states=bytes(states))
    text = the_one(world.audit(), "mismatching", "states")
    assert text == f"item_clicks_1h: expected fresh, found {name}"


def test_a_state_of_a_stream_that_is_behind_must_say_so(redis_url: str) -> None:
    world = busy(redis_url)
    world.read(START_MS + 10**10)
    assert set(world.last["states"]) >= {2}
    world.tamper(states=bytes(len(world.last["states"])))
    assert "expected stale, found fresh" in the_one(world.audit(), "mismatching", "states")


def test_what_a_store_begun_late_cannot_know_must_be_rebuilding(redis_url: str) -> None:
    world = World(redis_url, video.small)
    for at in range(4):
        world.write("impressions", START_MS + 1_000 * at)
    slot = world.store.slot("impressions", 0)
    late = replace(world.entries["impressions"], origin=2, next=2, origin_arrival=START_MS + 2_000)
    world.store.replace(slot, world.entries["impressions"], late)
    world.entries["impressions"] = late
    world.apply_all()
    world.read(START_MS + 4_000)
    assert world.audit().clean
    assert set(world.last["states"]) >= {3}
    world.tamper(states=bytes(len(world.last["states"])))
    texts = [f.text for f in world.audit().shown if f.check == "states"]
    assert any("expected rebuilding, found fresh" in text for text in texts)


def test_a_label_among_the_columns_leaks(redis_url: str) -> None:
    world = busy(redis_url)
    columns = [list(column) for column in world.last["columns"]]
    columns[4][0] = "clicked"
    world.tamper(columns=columns)
    assert "clicked" in the_one(world.audit(), "leaking", "schema")


def test_an_event_of_the_own_request_leaks(redis_url: str) -> None:
    world = World(redis_url, video.small)
    world.write("clicks", START_MS + 5, request_id="s0")
    world.apply_all()
    world.read(START_MS)
    text = the_one(world.audit(), "leaking", "positions")
    assert text == "clicks[0]@0, an event of its own request, is in its prefix"


def test_positions_from_after_the_snapshot_leak(redis_url: str) -> None:
    world = World(redis_url, video.small)
    world.write("clicks", START_MS + 5_002)
    world.apply_all()
    world.read(START_MS)
    assert "after the snapshot itself" in the_one(world.audit(), "leaking", "positions")


def test_windows_of_later_than_the_request_leak(redis_url: str) -> None:
    world = busy(redis_url)
    world.tamper(as_of=world.last["as_of"] + 60_000)
    assert "as_of is" in the_one(world.audit(), "leaking", "positions")


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"next": [0, 0, 0, 10_000]}, "the log ends at"),
        ({"partitions": 2}, "2 partitions a topic: the log has 1"),
        ({"topics": ["clicks"]}, "topics ['clicks']"),
        ({"incarnations": b"another life----" + LIFE * 3}, "incarnation"),
        ({"origin": [9_999] * 4}, "must not be before its origin"),
        ({"batches": [[0, 3, 2, 2]]}, "done below chunks"),
    ],
)
def test_positions_that_cannot_be_are_named(
    redis_url: str, change: dict[str, Any], text: str
) -> None:
    world = busy(redis_url)
    world.tamper(log={**world.last["log"], **change})
    assert text in the_one(world.audit(), "mismatching", "positions")


def test_another_deployments_snapshots_are_not_wrong(redis_url: str) -> None:
    world = busy(redis_url)
    n = len(world.last["items"]) * len(world.last["columns"])
    columns = [list(column) for column in world.last["columns"]]
    columns[0][1] = "0" * 16
    world.tamper(columns=columns, layout="another-one!")
    findings = world.audit()
    assert findings.clean
    assert findings.unverifiable == {"schema": 1, "values": n, "states": n}
    world.tamper(columns=[[c.name, c.hash] for c in world.features.columns])
    assert "layout another-one!" in the_one(world.audit(), "mismatching", "schema")


def test_what_retention_has_cut_is_not_wrong(redis_url: str) -> None:
    world = busy(redis_url)
    log = world.log()
    topics = dict(log.topics)
    part = topics["impressions"].partitions[0]
    cut = len(part.records) - 3
    topics["impressions"] = TopicLog(LIFE, [PartitionLog(cut, part.end, part.records[cut:])])
    world.records["impressions"] = list(part.records[cut:])
    findings = world.audit(RecordedLog(topics, 1))
    assert findings.clean, findings.table()
    assert findings.unverifiable["values"] > 0


@dataclass(frozen=True)
class Doubled(Feature):
    """An application's own formula."""

    name: str
    counter: Counter
    window: Window
    fresh_within_ms: int = 60_000

    @property
    def needs(self) -> list[tuple[Counter, Window]]:
        return [(self.counter, self.window)]

    def values(self, read: Any) -> Any:
        return 2.0 * read.total(self.counter, self.window).astype(np.float64)

    @property
    def definition(self) -> dict[str, Any]:
        return {"kind": "doubled", "of": counter_definition(self.counter, self.window)}


def test_an_own_formula_is_counted_apart_and_its_sums_are_still_checked(redis_url: str) -> None:
    own = Doubled("twice", video.item.impressions, Window.of("1h"))
    # The world's reads give a publish time, so something must take it.
    age = next(feature for feature in video.small if feature.name == "item_age")
    world = busy(redis_url, [own, age])
    assert world.audit().clean
    assert world.audit().checked["values (formula shared)"] == 75
    world.set_value(0, "twice", 1.0)
    assert the_one(world.audit(), "mismatching", "values (formula shared)")
