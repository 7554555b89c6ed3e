"""Somebody else's application: another folder, the installed wheel, no preset, its own events.

A shop with views and purchases runs a log of its own through the real components; its features
and labels are counted here once more, from the log's rows, with lists and loops.
"""

from __future__ import annotations

import csv
import json
import random
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tenuto.snapshot.dataset import Samples

APP = '''
"""What the shop declares."""

from tenuto import (
    Entity, Event, Field, Platform, SampleStream, context, count, first, rate, summed, sums, total
)

views = Event("views", implies_impression=True)
purchases = Event("purchases", fields={"amount_cents": Field(int, ge=0)})

item = Entity("item", "item_id", {
    "views": count(views),
    "purchases": count(purchases),
    "amount_cents": total(purchases, "amount_cents"),
})
purchased = first(purchases, "purchased", window="1h", delay="purchase_delay_ms")

app = Platform(
    "myshop",
    events=[views, purchases],
    features=[
        sums(item.views, "7d"),
        sums(item.amount_cents, "7d"),
        rate(item.purchases, item.views, "1d", name="buy_rate", strength=10, otherwise=0.02),
        context("margin"),
    ],
    samples=[
        SampleStream("default", [purchased]),
        SampleStream("buy", [
            purchased.within("3d"),
            summed(purchases, "amount_cents", "amount_cents", window="3d"),
        ]),
    ],
)
'''  # fmt: skip

START_MS = 1_700_000_000_000
MINUTE_MS, HOUR_MS, DAY_MS = 60_000, 3_600_000, 86_400_000
FRESHNESS_MS = 10_000
TILE_MS = {7 * DAY_MS: 6 * HOUR_MS, DAY_MS: 30 * MINUTE_MS}

COLUMNS = ["item_views_7d", "item_amount_cents_7d", "item_buy_rate_1d", "margin"]

Row = dict[str, Any]


def shop_log() -> list[Row]:
    """One row per shown item; purchases come in minutes, in days, too late, or unseen."""
    rnd = random.Random(11)
    rows: list[Row] = []
    ts = START_MS
    for number in range(50):
        ts += rnd.choice([2_000, 9 * MINUTE_MS, 5 * HOUR_MS])
        for position, item in enumerate(rnd.sample("abcdef", 3)):
            row: Row = {
                "request_id": f"r{number}",
                "user_id": f"u{number % 4}",
                "query": "shoes",
                "item_id": item,
                "position": position,
                "request_ts_ms": ts,
                "margin": rnd.choice(["", "0.25", "0.5"]),
            }
            if rnd.random() < 0.8:
                row["view_ts_ms"] = ts + rnd.choice([300, 4_000, 11 * MINUTE_MS])
            if rnd.random() < 0.4:
                after_ms = rnd.choice([5_000, 59 * MINUTE_MS, 2 * DAY_MS, 4 * DAY_MS])
                row["purchase_ts_ms"] = ts + after_ms
                row["amount_cents"] = rnd.randrange(100, 9_000)
            rows.append(row)
    return rows


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    return shop_log()


@pytest.fixture(scope="module")
def replayed(
    rows: list[Row],
    installed: Any,
    run_python: Callable[..., subprocess.CompletedProcess[str]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """The shop's repository after its log was replayed; it has a ``features/`` of its own."""
    shop = tmp_path_factory.mktemp("shop")
    for package in ("myshop", "features"):
        (shop / package).mkdir()
        (shop / package / "__init__.py").touch()
    (shop / "myshop" / "ranking.py").write_text(APP)
    names = list(dict.fromkeys(name for row in rows for name in row))
    with (shop / "log.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(rows)
    where = run_python(shop, "-c", "import tenuto; print(tenuto.__file__)")
    assert Path(where.stdout.strip()).is_relative_to(installed.folder)
    done = run_python(
        shop, "-m", "tenuto", "--app", "myshop.ranking:app", "replay", "log.csv",
        "--context", "margin", "--stack", "embedded", "--out", "samples", "--json", "figures.json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return shop


def by_row(directory: Path) -> dict[tuple[str, str], Row]:
    table = Samples(directory).table().to_pylist()
    found = {(row["request_id"], row["item_id"]): row for row in table}
    assert len(found) == len(table)
    return found


def labels(row: Row, window_ms: int) -> tuple[int, int | None, int | None]:
    """(purchased, purchase_delay_ms, amount_cents) of one row of the log."""
    seen_ms = row.get("view_ts_ms")
    if seen_ms is None or seen_ms - row["request_ts_ms"] > 10 * MINUTE_MS:
        return 0, None, None
    bought_ms = row.get("purchase_ts_ms")
    if bought_ms is None or not 0 <= bought_ms - seen_ms <= window_ms:
        return 0, None, None
    return 1, bought_ms - seen_ms, row["amount_cents"]


def features(row: Row, rows: list[Row]) -> list[float]:
    """The shop's columns for one row of its log, as :data:`COLUMNS` names them."""
    now_ms = row["request_ts_ms"] // FRESHNESS_MS * FRESHNESS_MS

    def known(time: str, window_ms: int, item: str | None) -> list[Row]:
        tile_ms = TILE_MS[window_ms]
        last = now_ms // tile_ms
        return [
            other
            for other in rows
            if item in (None, other["item_id"])
            and time in other
            and other["request_ts_ms"] < now_ms
            and other[time] < now_ms
            and last - window_ms // tile_ms < other[time] // tile_ms <= last
        ]

    item = row["item_id"]
    margin = float(row["margin"]) if row["margin"] else np.nan
    views, bought = (known(t, 7 * DAY_MS, item) for t in ("view_ts_ms", "purchase_ts_ms"))
    if not views and not bought:
        return [np.nan, np.nan, np.nan, margin]
    amount_cents = sum(other["amount_cents"] for other in bought)
    shown, paid = (len(known(t, DAY_MS, item)) for t in ("view_ts_ms", "purchase_ts_ms"))
    all_shown, all_paid = (len(known(t, DAY_MS, None)) for t in ("view_ts_ms", "purchase_ts_ms"))
    prior = min(all_paid, all_shown) / all_shown if all_shown else 0.02
    rate = (min(paid, shown) + 10 * prior) / (shown + 10)
    return [float(len(views)), float(amount_cents), rate, margin]


def test_every_shown_item_is_a_row_of_both_streams(rows: list[Row], replayed: Path) -> None:
    shown = sorted((row["request_id"], row["item_id"]) for row in rows)
    assert sorted(by_row(replayed / "samples")) == shown
    assert sorted(by_row(replayed / "samples" / "buy")) == shown


def test_both_streams_have_their_own_labels(rows: list[Row], replayed: Path) -> None:
    fast, buy = by_row(replayed / "samples"), by_row(replayed / "samples" / "buy")
    bought = {HOUR_MS: 0, 3 * DAY_MS: 0}
    for row in rows:
        key = row["request_id"], row["item_id"]
        for window_ms, sample in ((HOUR_MS, fast[key]), (3 * DAY_MS, buy[key])):
            purchased, delay_ms, amount_cents = labels(row, window_ms)
            assert (sample["purchased"], sample["purchase_delay_ms"]) == (purchased, delay_ms)
            assert sample.get("amount_cents") == (amount_cents if window_ms > HOUR_MS else None)
            bought[window_ms] += purchased
    assert 0 < bought[HOUR_MS] < bought[3 * DAY_MS]


def test_features_of_its_own_events_equal_a_plain_count(rows: list[Row], replayed: Path) -> None:
    fast, buy = by_row(replayed / "samples"), by_row(replayed / "samples" / "buy")
    counted = 0
    for row in rows:
        key = row["request_id"], row["item_id"]
        expected = np.array(features(row, rows), np.float32)
        for sample in (fast[key], buy[key]):
            got = np.array([sample[name] for name in COLUMNS], np.float32)
            np.testing.assert_array_equal(got, expected, err_msg=str(key))
        counted += expected[1] > 0
    assert counted > 10


def test_nothing_of_the_preset_is_in_its_samples(rows: list[Row], replayed: Path) -> None:
    figures = json.loads((replayed / "figures.json").read_bytes())
    assert figures["dead_letters"] == 0
    assert set(figures["events_by_topic"]) == {"views", "purchases"}
    columns = set(Samples(replayed / "samples" / "buy").table().column_names)
    assert not columns & {"clicked", "played", "liked", "converted", "play_ms"}


@pytest.mark.parametrize("command", ["simulate", "demo"])
def test_it_is_not_simulated_as_it_lacks_the_events_of_that_world(
    command: str, replayed: Path, run_python: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    done = run_python(replayed, "-m", "tenuto", "--app", "myshop.ranking:app", command)
    assert done.returncode == 2
    assert done.stderr.startswith("tenuto: app myshop.ranking:app: the simulator sends impressions")
    assert done.stderr.count("\n") == 1
