"""``tenuto inspect item|user|entity`` against what was put into Redis."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis
from click.testing import CliRunner, Result

from tenuto.cli import main
from tenuto.features.aggregate import Aggregator
from tenuto.features.client import FeatureClient
from tenuto.features.progress import Entry
from tenuto.features.reader import Reader, Request
from tenuto.features.store import Store
from tenuto.inspection.text import moment, moment_ms, span
from tenuto.presets import video

pytestmark = pytest.mark.stack
T = 1_700_000_000_000


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("TENUTO_KAFKA__PARTITIONS", "2")


class World:
    """A store that has read two partitions of each event, by hand."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.layout = video.app.feature_set().layout
        self.store = Store(redis.Redis.from_url(url), self.layout, 2, "ns")
        self.entries: dict[tuple[str, int], Entry] = {}
        for number, topic in enumerate(self.layout.topics):
            for partition in range(2):
                slot = self.store.slot(topic, partition)
                life = bytes([number + 1]) * 16
                self.entries[topic, partition] = self.store.begin(slot, life, 0)

    def add(self, topic: str, records: list[dict[str, Any]], arrival: int, p: int = 0) -> None:
        columns: dict[str, Any] = {
            name: [record[name] for record in records] for name in ("item_id", "user_id", "query")
        }
        columns["ts"] = np.array([record["ts"] for record in records], np.int64)
        columns["position"] = np.array([record["position"] for record in records], np.int64)
        deltas = Aggregator(self.layout).deltas(topic, columns)
        entry = self.entries[topic, p]
        self.entries[topic, p] = self.store.apply(
            self.store.slot(topic, p), entry, entry.next + len(records), arrival, deltas
        )


def event(ts: int, item: str = "i1", user: str = "u1", query: str = "q") -> dict[str, Any]:
    return {"item_id": item, "user_id": user, "query": query, "ts": ts, "position": 3}


def inspect(url: str, *arguments: str) -> Result:
    return CliRunner().invoke(main, ["--redis", url, "--namespace", "ns", "inspect", *arguments])


def shown(url: str, *arguments: str) -> dict[str, Any]:
    result = inspect(url, *arguments, "--json")
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def refused(url: str, *arguments: str) -> str:
    result = inspect(url, *arguments)
    assert result.exit_code == 2, result.output
    (line,) = result.stderr.splitlines()
    return line


@pytest.fixture
def world(redis_url: str) -> World:
    world = World(redis_url)
    old = [event(T - 90 * 60_000), event(T - 90 * 60_000, item="i2")]
    world.add("impressions", [*old, event(T - 30_000), event(T - 20_000)], T)
    world.add("clicks", [event(T - 10_000)], T - 5_000, p=1)
    return world


def test_sums_of_each_window_are_those_of_the_events(world: World) -> None:
    report = shown(world.url, "item", "i1")
    (view,) = report["views"]
    sums = {window["window"]: window["sums"] for window in view["windows"]}
    assert [sums[w]["impressions"] for w in ("5m", "1h", "1d", "7d")] == [2, 2, 3, 3]
    assert [sums[w]["clicks"] for w in ("5m", "1h", "1d", "7d")] == [1, 1, 1, 1]
    assert view["key"] == {"item_id": "i1"}
    assert view["bytes"] == world.layout.view(video.item).size
    assert view["windows"][0]["newest_tile_ms"] == (T - 10_000) // 10_000 * 10_000
    tile_ms = view["windows"][-1]["tile_ms"]
    assert view["first_seen_ms"] == (T - 90 * 60_000) // tile_ms * tile_ms


def test_values_and_states_are_those_that_a_ranker_reads(world: World) -> None:
    (view,) = shown(world.url, "item", "i1")["views"]
    reader = Reader(video.app.feature_set(), 2, "ns")
    matrix = FeatureClient(world.url, reader).read(Request("r", "u1", "q", T), ["i1"])
    names = [feature["name"] for feature in view["features"]]
    assert "item_ctr_1h" in names
    assert not any(name.startswith(("user_", "query_", "hour")) for name in names)
    for feature in view["features"]:
        value = matrix.column(feature["name"])[0]
        assert feature["value"] == (None if np.isnan(value) else float(value))


def test_the_moment_is_the_newest_arrival_that_redis_has_and_says_so(world: World) -> None:
    report = shown(world.url, "user", "u1")
    assert report["as_of_ms"] == T
    assert report["as_of_origin"] == "the newest arrival that Redis has"


def test_another_moment_can_be_asked_for(world: World) -> None:
    report = shown(world.url, "item", "i1", "--as-of", moment(T + 3_600_000))
    sums = {window["window"]: window["sums"] for window in report["views"][0]["windows"]}
    assert (sums["1h"]["impressions"], sums["1d"]["impressions"]) == (0, 3)
    streams = {stream["topic"]: stream for stream in report["streams"]}
    assert streams["clicks"]["behind_ms"] == T + 3_600_000
    assert streams["clicks"]["slowest"] == 0


def test_a_moment_that_the_rings_no_longer_hold_is_refused(world: World) -> None:
    line = refused(world.url, "item", "i1", "--as-of", str(T - 86_400_000))
    assert "--as-of: as_of" in line
    assert "the rings no longer hold that moment" in line


def test_a_partition_that_is_not_read_to_the_loss_is_rebuilding(world: World) -> None:
    slot = world.store.slot("clicks", 1)
    entry = world.entries["clicks", 1]
    behind = Entry(entry.incarnation, 0, 0, entry.next, entry.arrival, rebuild_until=99)
    world.store.replace(slot, entry, behind)
    report = shown(world.url, "item", "i1")
    streams = {stream["topic"]: stream for stream in report["streams"]}
    assert (streams["clicks"]["rebuilding"], streams["likes"]["rebuilding"]) == ([1], [])
    states = {f["name"]: f["state"] for f in report["views"][0]["features"]}
    assert states["item_clicks_1h"] == "rebuilding"
    assert states["item_impressions_1h"] != "rebuilding"


def test_text_has_the_same_in_tables(world: World) -> None:
    lines = inspect(world.url, "item", "i1").stdout.splitlines()
    assert lines[0].startswith(f"as of {moment(T)} (the newest arrival that Redis has), layout ")
    assert any(line.split()[:2] == ["item_clicks_1h", "1"] for line in lines)
    assert any(line.split()[:2] == ["clicks", "2/2"] for line in lines)


def test_an_entity_of_two_ids_and_one_of_none_are_shown_by_name(world: World) -> None:
    (pair,) = shown(world.url, "entity", "query_item", "q", "i1")["views"]
    assert pair["key"] == {"query": "q", "item_id": "i1"}
    (traffic,) = shown(world.url, "entity", "traffic")["views"]
    day = next(window for window in traffic["windows"] if window["window"] == "1d")
    assert day["sums"]["impressions"] == 4
    assert day["buckets"]["impressions"] == [0, 0, 4, 0, 0, 0, 0]


def test_an_unknown_id_is_one_line_that_says_where_it_was_looked_for(world: World) -> None:
    line = refused(world.url, "item", "nobody")
    assert line.startswith("tenuto: item 'nobody': nothing is counted for it: redis at 127.0.0.1:")
    assert line.endswith(f"has no {{tenuto.ns.{world.layout.digest}}}:0:nobody")


def test_an_unknown_entity_and_a_wrong_number_of_ids_are_named(world: World) -> None:
    assert "there are item(item_id), query(query)" in refused(world.url, "entity", "author", "a")
    assert "takes QUERY ITEM_ID (given 1)" in refused(world.url, "entity", "query_item", "q")


def test_a_redis_that_nothing_was_read_into_is_named(redis_url: str) -> None:
    assert "nothing has been read into this layout" in refused(redis_url, "item", "i1")


def test_another_partition_count_is_seen(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    for count in ("1", "3", "24"):
        monkeypatch.setenv("TENUTO_KAFKA__PARTITIONS", count)
        line = refused(world.url, "item", "i1")
        assert f"progress of 2 partitions a topic, and this reader has {count}" in line


@pytest.mark.parametrize("text", ["1700000000000", "2023-11-14T22:13:20Z", "2023-11-14T22:13:20"])
def test_a_moment_is_read_as_milliseconds_or_iso(text: str) -> None:
    assert moment_ms(text) == T
    assert moment(moment_ms(text)) == "2023-11-14T22:13:20.000Z"


@pytest.mark.parametrize(
    ("ms", "text"),
    [(0, "0ms"), (-40, "-40ms"), (3_200, "3.2s"), (3_905_000, "1h 5m"), (7_200_000, "2h")],
)
def test_a_span_is_short(ms: int, text: str) -> None:
    assert span(ms) == text
