from __future__ import annotations

from math import inf, isnan

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from tenuto.trainer.metrics import bootstrap
from tenuto.trainer.metrics.auc import auc
from tenuto.trainer.metrics.bootstrap import auc_interval, multiplicities, ratio_interval
from tenuto.trainer.metrics.calibration import calibration
from tenuto.trainer.metrics.gauc import gauc
from tenuto.trainer.metrics.intervals import intervals
from tenuto.trainer.metrics.lift import lift
from tenuto.trainer.metrics.normalized_entropy import normalized_entropy
from tenuto.trainer.metrics.scored_rows import ScoredRows


def world(users: int, rows: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, scores and users; some users click much more than others."""
    rng = np.random.default_rng(seed)
    of = rng.integers(0, users, rows)
    taste = rng.normal(-2.0, 1.0, users)[of]
    merit = rng.normal(0.0, 1.0, rows)
    labels = rng.random(rows) < 1.0 / (1.0 + np.exp(-taste - merit))
    scores = 1.0 / (1.0 + np.exp(2.0 - merit - rng.normal(0.0, 1.0, rows)))
    return labels.astype(np.uint8), scores.astype(np.float32), of


def resampled_rows(users: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """Row numbers of a resample, each row as often as its user was drawn."""
    names = np.unique(users)
    rows = [np.flatnonzero(users == name) for name in names]
    return np.concatenate([np.tile(r, int(k)) for r, k in zip(rows, drawn, strict=True)])


def test_every_resample_draws_as_many_users_as_there_are() -> None:
    (draws,) = multiplicities(17, 30, seed=1)
    assert draws.shape == (30, 17)
    assert (draws.sum(axis=1) == 17).all()


def test_draws_do_not_depend_on_how_they_are_cut_into_chunks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = np.concatenate(list(multiplicities(13, 50, seed=5)))
    monkeypatch.setattr(bootstrap, "_CHUNK_CELLS", 13 * 7)
    chunks = list(multiplicities(13, 50, seed=5))
    assert len(chunks) == 8
    assert (np.concatenate(chunks) == whole).all()


def test_the_auc_interval_is_that_of_rows_literally_drawn_again() -> None:
    labels, scores, users = world(users=12, rows=200)
    (draws,) = multiplicities(12, 40, seed=9)
    values = []
    for drawn in draws:
        rows = resampled_rows(users, drawn)
        values.append(roc_auc_score(labels[rows], scores[rows]))
    found = auc_interval(labels, scores, users, resamples=40, level=0.9, seed=9)
    assert found.value == auc(labels, scores)
    assert found.low == pytest.approx(sorted(values)[1])  # floor(0.05 · 39)
    assert found.high == pytest.approx(sorted(values)[38])


def test_the_lift_draws_users_once_for_both_shares() -> None:
    clicks, _, users = world(users=10, rows=300)
    treated = np.arange(300) % 3 == 0
    (draws,) = multiplicities(10, 40, seed=2)
    values = []
    for drawn in draws:
        rows = resampled_rows(users, drawn)
        mine, others = rows[treated[rows]], rows[~treated[rows]]
        values.append(clicks[mine].mean() / clicks[others].mean())
    found = lift(clicks, users, treated, ~treated, resamples=40, level=0.9, seed=2)
    assert found.value == pytest.approx(clicks[treated].mean() / clicks[~treated].mean())
    assert (found.low, found.high) == pytest.approx((sorted(values)[1], sorted(values)[38]))


def test_equal_rates_by_user_have_a_lift_of_1_whatever_the_users_are() -> None:
    # Drawing users for each share apart would give these an interval of some width.
    clicks = np.array([0.0, 5.0, 40.0, 1.0])
    rows = np.array([100.0, 50.0, 90.0, 10.0])
    found = ratio_interval(clicks, rows, clicks, rows)
    assert (found.value, found.low, found.high) == (1.0, 1.0, 1.0)


def test_every_metric_has_its_exact_value_within_its_interval() -> None:
    labels, scores, users = world(users=60, rows=2_000)
    rows, _ = ScoredRows.of(labels, scores, users, np.ones(2_000))
    found = intervals(rows, resamples=200)
    exact = {
        "auc": auc(labels, scores),
        "gauc": gauc(labels, scores, users),
        "ne": normalized_entropy(labels, scores),
        "calibration": calibration(labels, scores),
    }
    assert set(found) == set(exact)
    for name, estimate in found.items():
        assert estimate.value == pytest.approx(exact[name], rel=1e-6)
        assert estimate.low < estimate.value < estimate.high
        assert estimate.users == 60


def test_the_same_rows_and_seed_have_the_same_interval() -> None:
    labels, scores, users = world(users=30, rows=500)
    first, second, other = (auc_interval(labels, scores, users, seed=s) for s in (4, 4, 5))
    assert first == second
    assert first != other


def test_an_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    # Weights of users are equal, clicks are dealt by user: rows alone would seem far more certain.
    rng = np.random.default_rng(8)
    covered = 0
    for seed in range(200):
        rates = np.minimum(rng.gamma(1.0, 0.2, 80), 1.0)
        a, b = (rng.binomial(50, rates) for _ in range(2))
        size = np.full(80, 50.0)
        found = ratio_interval(a, size, b, size, resamples=200, seed=seed)
        covered += found.low <= 1.0 <= found.high
    assert 180 <= covered <= 199


def test_one_user_has_a_value_and_no_interval() -> None:
    found = auc_interval([0, 1], [0.1, 0.9], [7, 7])
    assert found.value == 1.0
    assert isnan(found.low)
    assert isnan(found.high)


def test_nothing_at_all_has_neither() -> None:
    for found in intervals(ScoredRows.none()).values():
        assert isnan(found.value)
        assert isnan(found.low)


def test_a_share_without_clicks_has_an_infinite_upper_bound() -> None:
    found = ratio_interval([3, 2, 4], [9, 9, 9], [0, 0, 1], [9, 9, 9])
    assert found.value == 9.0
    assert found.low > 0.0
    assert found.high == inf
