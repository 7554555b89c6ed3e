from __future__ import annotations

from math import isnan, log

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn.metrics import log_loss

from tenuto.trainer.metrics.calibration import calibration
from tenuto.trainer.metrics.normalized_entropy import SMALLEST, normalized_entropy
from tenuto.trainer.metrics.score_sums import ScoreSums
from tenuto.trainer.metrics.scored_rows import ScoredRows

ROW = st.tuples(st.integers(0, 1), st.floats(0.001, 0.999), st.floats(0.01, 100.0))
ROWS = st.lists(ROW, min_size=2, max_size=40)


def test_always_predicting_the_base_rate_is_1() -> None:
    labels = [1, 0, 0, 0]
    assert normalized_entropy(labels, [0.25] * 4) == pytest.approx(1.0)
    assert calibration(labels, [0.25] * 4) == pytest.approx(1.0)


def test_a_case_by_hand() -> None:
    # −ln 0.8 − ln 0.6 over two rows whose base rate is one half.
    expected = -(log(0.8) + log(0.6)) / (2 * log(2))
    assert normalized_entropy([1, 0], [0.8, 0.4]) == pytest.approx(expected)
    assert calibration([1, 0], [0.8, 0.4]) == pytest.approx(1.2)


def test_twice_the_probability_is_a_calibration_of_2_and_costs_entropy() -> None:
    labels = np.repeat([1, 0], [10, 90])
    assert calibration(labels, np.full(100, 0.2)) == pytest.approx(2.0)
    assert normalized_entropy(labels, np.full(100, 0.2)) > 1.0


def test_a_probability_of_0_for_what_happened_costs_much_and_not_infinitely() -> None:
    assert normalized_entropy([1, 0], [0.0, 0.0]) == pytest.approx(-log(SMALLEST) / (2 * log(2)))


def test_rows_of_one_class_have_no_normalized_entropy() -> None:
    for labels in ([], [0, 0], [1, 1]):
        assert isnan(normalized_entropy(labels, [0.5] * len(labels)))


def test_rows_without_a_positive_have_no_calibration() -> None:
    assert isnan(calibration([0, 0], [0.5, 0.5]))
    assert isnan(calibration([], []))


@settings(max_examples=200, deadline=None)
@given(rows=ROWS)
def test_it_is_scikit_learns_log_loss_over_that_of_the_base_rate(rows: list) -> None:
    labels, scores, weights = (np.array(column) for column in zip(*rows, strict=True))
    assume(0 < labels.sum() < len(labels))
    base = np.full(len(labels), np.average(labels, weights=weights))
    losses = [log_loss(labels, p, sample_weight=weights) for p in (scores, base)]
    assert normalized_entropy(labels, scores, weights) == pytest.approx(losses[0] / losses[1])


@settings(max_examples=100, deadline=None)
@given(rows=ROWS, cut=st.integers(0, 40))
def test_sums_of_two_sets_of_rows_add_up_to_the_metrics_of_both(rows: list, cut: int) -> None:
    labels, scores, weights = (np.array(column) for column in zip(*rows, strict=True))
    all_rows, _ = ScoredRows.of(labels, scores, np.zeros(len(labels)), weights)
    sums = ScoreSums.of(all_rows.slice(0, cut)) + ScoreSums.of(all_rows.slice(cut))
    values = sums.values()
    single = all_rows.scores, all_rows.weights
    assert values["rows"] == len(labels)
    assert values["ne"] == pytest.approx(normalized_entropy(labels, *single), nan_ok=True)
    assert values["calibration"] == pytest.approx(calibration(labels, *single), nan_ok=True)
    assert values["base_rate"] == pytest.approx(np.average(labels, weights=single[1]))
