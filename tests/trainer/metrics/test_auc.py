from __future__ import annotations

from math import isnan

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from tenuto.trainer.metrics.auc import auc, auc_of_counts
from tenuto.trainer.metrics.gauc import gauc, group_aucs

# Few distinct scores and users, so that ties and one-sided users are common.
ROW = st.tuples(st.integers(0, 1), st.integers(0, 6), st.integers(0, 3), st.floats(0.01, 100.0))
ROWS = st.lists(ROW, min_size=1, max_size=40)


def by_pairs(labels: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> tuple[float, float]:
    """Weight of the pairs in the right order, and of all pairs, from the definition."""
    won = total = 0.0
    for i in np.flatnonzero(labels == 1):
        for j in np.flatnonzero(labels == 0):
            pair = weights[i] * weights[j]
            total += pair
            won += pair * ((scores[i] > scores[j]) + 0.5 * (scores[i] == scores[j]))
    return won, total


def test_three_pairs_of_four_in_order_are_an_auc_of_three_quarters() -> None:
    assert auc([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8]) == 0.75


def test_ties_count_half() -> None:
    assert auc([0, 1, 1], [0.5, 0.5, 0.7]) == 0.75
    assert auc([0, 1, 0, 1], [0.3] * 4) == 0.5


def test_a_weight_is_as_many_rows() -> None:
    labels, scores, weights = [1, 0, 0, 1], [0.4, 0.2, 0.6, 0.6], [2, 1, 3, 1]
    assert auc(labels, scores, weights) == auc(
        np.repeat(labels, weights), np.repeat(scores, weights)
    )


@pytest.mark.parametrize(
    ("labels", "weights"), [([], []), ([1, 1], [1, 1]), ([0, 0], [1, 1]), ([0, 1], [1, 0])]
)
def test_without_two_classes_of_some_weight_there_is_no_auc(
    labels: list[int], weights: list[float]
) -> None:
    scores = np.linspace(0.1, 0.9, len(labels))
    assert isnan(auc(labels, scores, weights))
    assert isnan(gauc(labels, scores, np.zeros(len(labels), np.int64), weights))


@settings(max_examples=200, deadline=None)
@given(rows=ROWS)
def test_auc_is_that_of_scikit_learn_and_of_the_definition(rows: list) -> None:
    labels, scores, _, weights = (np.array(column) for column in zip(*rows, strict=True))
    assume(0 < labels.sum() < len(labels))
    won, total = by_pairs(labels, scores, weights)
    found = auc(labels, scores, weights)
    assert found == pytest.approx(won / total, rel=1e-9)
    assert found == pytest.approx(roc_auc_score(labels, scores, sample_weight=weights), rel=1e-9)
    assert auc(labels, scores) == pytest.approx(roc_auc_score(labels, scores), rel=1e-12)


@settings(max_examples=200, deadline=None)
@given(rows=ROWS)
def test_auc_of_counts_by_bin_is_exact_where_a_bin_is_a_score(rows: list) -> None:
    labels, scores, _, weights = (np.array(column) for column in zip(*rows, strict=True))
    assume(0 < labels.sum() < len(labels))
    counts = [np.bincount(scores, weights * (labels == label), 7) for label in (1, 0)]
    assert auc_of_counts(*counts)[0] == pytest.approx(auc(labels, scores, weights), rel=1e-9)


@settings(max_examples=200, deadline=None)
@given(rows=ROWS)
def test_auc_of_coarse_counts_is_off_by_no_more_than_it_says(rows: list) -> None:
    labels, scores, _, weights = (np.array(column) for column in zip(*rows, strict=True))
    assume(0 < labels.sum() < len(labels))
    counts = [np.bincount(scores // 3, weights * (labels == label), 3) for label in (1, 0)]
    found, error = auc_of_counts(*counts)
    assert abs(found - auc(labels, scores, weights)) <= error + 1e-9


def test_gauc_weighs_users_by_their_rows_and_leaves_out_those_of_one_class() -> None:
    users = [1, 1, 2, 2, 2, 2, 3, 3]
    labels = [0, 1, 1, 0, 0, 0, 1, 1]
    scores = [0.1, 0.2, 0.5, 0.1, 0.6, 0.7, 0.0, 0.9]
    assert group_aucs(labels, scores, users).groups.tolist() == [1, 2]
    assert gauc(labels, scores, users) == pytest.approx((2 * 1.0 + 4 * (1 / 3)) / 6)


def test_gauc_does_not_see_what_lies_between_users() -> None:
    rng = np.random.default_rng(3)
    users, labels = rng.integers(0, 20, 500), rng.integers(0, 2, 500)
    scores = rng.random(500)
    shifted = scores + 10.0 * users
    assert gauc(labels, shifted, users) == pytest.approx(gauc(labels, scores, users), rel=1e-12)
    assert auc(labels, shifted) != pytest.approx(auc(labels, scores), rel=1e-3)


@settings(max_examples=200, deadline=None)
@given(rows=ROWS)
def test_gauc_is_the_weighted_mean_of_scikit_learns_auc_by_user(rows: list) -> None:
    labels, scores, users, weights = (np.array(column) for column in zip(*rows, strict=True))
    top = bottom = 0.0
    for user in np.unique(users):
        mine = users == user
        if 0 < labels[mine].sum() < mine.sum():
            share = weights[mine].sum()
            bottom += share
            top += share * roc_auc_score(labels[mine], scores[mine], sample_weight=weights[mine])
    assume(bottom > 0)
    assert gauc(labels, scores, users, weights) == pytest.approx(top / bottom, rel=1e-7)
