from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tenuto.trainer.metrics.auc import auc
from tenuto.trainer.metrics.calibration import calibration
from tenuto.trainer.metrics.gauc import gauc, group_aucs
from tenuto.trainer.metrics.normalized_entropy import normalized_entropy
from tenuto.trainer.metrics.predictions import Predictions
from tenuto.trainer.metrics.score_histogram import BINS, REACH, ScoreHistogram, bins
from tenuto.trainer.metrics.scored_rows import ScoredRows
from tenuto.trainer.metrics.task_metrics import TaskMetrics
from tenuto.trainer.metrics.window import Window

GOLDEN = {
    "lifetime": [
        "rows",
        "base_rate",
        "log_loss",
        "ne",
        "calibration",
        "auc",
        "auc_error",
        "gauc",
    ],
    "window": ["rows", "base_rate", "log_loss", "ne", "calibration", "auc", "gauc"],
}
GOLDEN_STATE = [
    "lifetime.sums",
    "lifetime.counts",
    "window.labels",
    "window.scores",
    "window.users",
    "window.weights",
    "kept.labels",
    "kept.scores",
    "kept.users",
    "kept.weights",
    "blocks",
    "counts",
]


def scored(rows: int, seed: int = 0) -> ScoredRows:
    rng = np.random.default_rng(seed)
    logit = rng.normal(-2.0, 1.0, rows)
    labels = rng.random(rows) < 1.0 / (1.0 + np.exp(-logit))
    scores = 1.0 / (1.0 + np.exp(-logit - rng.normal(0.0, 0.5, rows)))
    weights = rng.integers(1, 4, rows)
    return ScoredRows.of(labels, scores, rng.integers(0, 40, rows), weights)[0]


def fill(metrics: TaskMetrics, rows: ScoredRows, sizes: list[int]) -> None:
    at = 0
    for size in sizes:
        metrics.update(*rows.slice(at, at + size).columns().values())
        at += size


def same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return set(a) == set(b) and all(
        a[name].dtype == b[name].dtype and a[name].tobytes() == b[name].tobytes() for name in a
    )


def test_names_of_the_metrics() -> None:
    read = TaskMetrics("ctr", "next", window_rows=10).read()
    assert {span: list(values) for span, values in read.items()} == GOLDEN
    assert list(TaskMetrics("ctr", "as_of", window_rows=1, keep_rows=True).state()) == GOLDEN_STATE


def test_before_the_first_row_every_metric_but_the_count_is_nan() -> None:
    for values in TaskMetrics("ctr", "next", window_rows=10).read().values():
        assert values.pop("rows") == 0
        assert np.isnan(list(values.values())).all()


def test_a_lifetime_is_of_all_rows_and_a_window_of_the_newest() -> None:
    rows = scored(5_000)
    metrics = TaskMetrics("ctr", "next", window_rows=700)
    fill(metrics, rows, [512] * 10)
    read = metrics.read()
    for values, part in ((read["lifetime"], rows), (read["window"], rows.slice(4_300))):
        one = part.labels, part.scores
        assert values["rows"] == len(part)
        assert values["ne"] == pytest.approx(normalized_entropy(*one, part.weights), rel=1e-12)
        assert values["calibration"] == pytest.approx(calibration(*one, part.weights), rel=1e-12)
        assert values["auc"] == pytest.approx(auc(*one, part.weights), abs=1e-4)
    newest = rows.slice(4_300)
    assert read["window"]["auc"] == auc(newest.labels, newest.scores, newest.weights)
    assert read["window"]["gauc"] == gauc(
        newest.labels, newest.scores, newest.users, newest.weights
    )


def test_lifetime_gauc_compares_a_users_rows_within_blocks_of_a_windows_size() -> None:
    rows = scored(2_500)
    metrics = TaskMetrics("ctr", "next", window_rows=1_000)
    fill(metrics, rows, [1, 1_999, 500])
    blocks = rows.users * 10 + np.arange(2_500) // 1_000
    top, bottom = group_aucs(rows.labels, rows.scores, blocks, rows.weights).total
    assert metrics.read()["lifetime"]["gauc"] == pytest.approx(top / bottom, rel=1e-12)


def test_rows_without_a_probability_are_left_out_and_counted() -> None:
    metrics = TaskMetrics("ctr", "served", window_rows=10)
    scores = [0.5, np.nan, 1.5, -0.1, np.inf, np.nan]
    metrics.update([1, 1, 0, 0, 0, 0], scores, [1] * 6, [1, 1, 1, 1, 1, 0])
    assert metrics.read()["lifetime"]["rows"] == 1
    assert metrics.skipped == 4


def test_rows_without_weight_do_not_count() -> None:
    metrics = TaskMetrics("ctr", "next", window_rows=10)
    metrics.update([1, 0], [0.5, 0.5], [1, 1], [0.0, 0.0])
    assert metrics.read()["window"]["rows"] == metrics.skipped == 0


def test_columns_of_different_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match=r"labels \(2,\), scores \(1,\)"):
        TaskMetrics("ctr", "next", window_rows=10).update([1, 0], [0.5], [1, 1], [1, 1])


@settings(max_examples=50, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 70), min_size=1, max_size=12),
    stop=st.integers(0, 12),
    window=st.integers(1, 120),
)
def test_resuming_anywhere_goes_on_bit_for_bit(sizes: list[int], stop: int, window: int) -> None:
    rows = scored(sum(sizes))
    whole = TaskMetrics("ctr", "as_of", window_rows=window, keep_rows=True)
    fill(whole, rows, sizes)

    first = TaskMetrics("ctr", "as_of", window_rows=window, keep_rows=True)
    fill(first, rows, sizes[:stop])
    state = first.state()
    fill(first, rows.slice(sum(sizes[:stop])), sizes[stop:])  # must not reach into the state
    second = TaskMetrics("ctr", "as_of", window_rows=window, keep_rows=True)
    second.load(state)
    fill(second, rows.slice(sum(sizes[:stop])), sizes[stop:])

    assert same(whole.state(), second.state())
    assert repr(whole.read()) == repr(second.read())


def test_a_window_may_be_of_another_size_after_a_resume() -> None:
    rows = scored(1_000)
    before = TaskMetrics("ctr", "next", window_rows=600)
    fill(before, rows, [512, 488])
    for size in (100, 900):
        after = TaskMetrics("ctr", "next", window_rows=size)
        after.load(before.state())
        assert after.read()["window"]["rows"] == min(600, size)
        after.update(*rows.columns().values())
        assert after.read()["lifetime"]["rows"] == 2_000


def test_intervals_need_the_rows() -> None:
    with pytest.raises(ValueError, match="ctr next: intervals need keep_rows=True"):
        TaskMetrics("ctr", "next", window_rows=10).intervals()


def test_intervals_are_of_all_rows() -> None:
    rows = scored(1_000)
    metrics = TaskMetrics("ctr", "as_of", window_rows=10, keep_rows=True)
    fill(metrics, rows, [300, 700])
    found = metrics.intervals(resamples=50)["auc"]
    assert found.value == auc(rows.labels, rows.scores, rows.weights)
    assert found.users == 40


@settings(max_examples=100, deadline=None)
@given(size=st.integers(1, 30), sizes=st.lists(st.integers(0, 50), max_size=8))
def test_a_window_holds_the_newest_rows_in_order(size: int, sizes: list[int]) -> None:
    rows = scored(sum(sizes))
    window = Window(size)
    at = 0
    for count in sizes:
        window.update(rows.slice(at, at + count))
        at += count
    kept = rows.slice(max(0, len(rows) - size))
    assert len(window) == len(kept)
    assert same(window.rows().columns(), kept.columns())
    assert same(window.rows(5).columns(), kept.slice(max(0, len(kept) - 5)).columns())


def test_predictions_keep_every_row_as_they_grow() -> None:
    rows = scored(20_000)
    kept = Predictions()
    for at in range(0, 20_000, 7_000):
        kept.append(rows.slice(at, at + 7_000))
    assert same(kept.state(), rows.columns())
    again = Predictions()
    again.load(kept.state())
    assert same(again.state(), rows.columns())


def test_the_histograms_auc_is_within_its_bound_and_much_closer_in_practice() -> None:
    rows = scored(200_000)
    histogram = ScoreHistogram()
    histogram.update(rows)
    values = histogram.values()
    off = abs(values["auc"] - auc(rows.labels, rows.scores, rows.weights))
    assert off <= values["auc_error"] < 1e-3
    assert off < 1e-5


def test_bins_ascend_with_the_probability_and_take_0_and_1() -> None:
    scores = np.concatenate([[0.0], np.logspace(-9, -0.0001, 1_000), [1.0]]).astype(np.float32)
    places = bins(scores)
    assert (np.diff(places) >= 0).all()
    assert (places >= 0).all()
    assert (places < BINS).all()
    assert bins(np.array([0.5], np.float32))[0] == BINS // 2
    assert 256 * 2 * REACH == BINS
