"""The learner: a function of rows, batches and seed; safe against bad rows; able to grow."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from learner_rows import COLUMNS, EPOCH_MS, matrix_of, rows_of, spec_of, taught, tensors_of

from tenuto.trainer.learner import BadLossError, Learner
from tenuto.trainer.model.determinism import fix
from tenuto.trainer.model.id_tables import IdTable
from tenuto.trainer.model.noise import hidden
from tenuto.trainer.model.tensors import TensorError
from tenuto.trainer.ranker import Ranker
from tenuto.trainer.spec import InputColumn, Transform

SPEC = spec_of()
NEWEST_MS = EPOCH_MS + 60_000
NEW_COLUMN = InputColumn("fresh", "h9", Transform("log", 1.0, 100.0))


@pytest.fixture(autouse=True, scope="module")
def fixed() -> Any:
    fix(1)
    yield
    torch.use_deterministic_algorithms(False)


def saved_and_loaded(learner: Learner) -> Learner:
    """Through copies and JSON, as a checkpoint does."""
    serving, training = (
        {name: tensor.clone() for name, tensor in part.items()}
        for part in (learner.serving_tensors(), learner.training_tensors())
    )
    dictionary, state = json.loads(json.dumps([learner.dictionary(), learner.state()]))
    return Learner.load(learner.spec, serving, training, dictionary, state)


def assert_equal(a: Learner, b: Learner) -> None:
    ours, theirs = tensors_of(a), tensors_of(b)
    assert ours.keys() == theirs.keys()
    different = [n for n in ours if ours[n].tobytes() != theirs[n].tobytes()]
    assert different == []
    assert (a.dictionary(), a.state()) == (b.dictionary(), b.state())


def test_a_fresh_model_predicts_its_priors_anywhere() -> None:
    found = Learner(SPEC).predict(rows_of(SPEC, 0), at="logged", newest_ts_ms=NEWEST_MS)
    assert list(found) == ["ctr", "cvr", "ctcvr"]
    assert found["ctr"] == pytest.approx(np.full(64, 0.1), rel=1e-5)
    assert found["ctcvr"] == pytest.approx(np.full(64, 0.03), rel=1e-5)


def test_what_is_learnt_follows_from_the_seed_and_the_rows() -> None:
    assert_equal(taught(SPEC, 6), taught(SPEC, 6))
    others = taught(spec_of(seed=1), 6).serving_tensors()
    ours = taught(SPEC, 6).serving_tensors()
    assert not torch.equal(ours["network.buckets.table"], others["network.buckets.table"])


@settings(max_examples=12)
@given(st.sets(st.integers(0, 9), max_size=4))
def test_stopping_between_any_batches_changes_no_bit(stops: set[int]) -> None:
    learner = Learner(spec_of(standardise_rows=200, max_ids=30))
    whole = taught(learner.spec, 10)
    for batch in range(10):
        if batch in stops:
            learner = saved_and_loaded(learner)
        taught(learner.spec, 1, first=batch, learner=learner)
    assert_equal(learner, whole)


def test_losses_fall_on_rows_seen_again_and_again() -> None:
    learner, rows = Learner(SPEC), rows_of(SPEC, 0, 256)
    losses = [learner.learn(rows, batch=b, newest_ts_ms=NEWEST_MS) for b in range(60)]
    assert list(losses[0]) == ["ctr", "ctcvr"]
    assert losses[-1]["ctr"] < 0.85 * losses[0]["ctr"]
    assert losses[-1]["ctcvr"] < 0.85 * losses[0]["ctcvr"]


def test_scores_of_the_learnt_pass_are_the_predictions_just_before() -> None:
    learner, rows = taught(SPEC, 5), rows_of(SPEC, 9)
    before = learner.predict(rows.seen(), at="logged", newest_ts_ms=NEWEST_MS)
    _, scored = learner.learn_scored(rows, batch=5, newest_ts_ms=NEWEST_MS)
    assert scored.keys() == before.keys()
    assert all((scored[name] == before[name]).all() for name in before)


def test_rows_that_nobody_saw_change_nothing() -> None:
    one, other = taught(SPEC, 3), taught(SPEC, 3)
    rows = rows_of(SPEC, 7)
    one.learn(rows, batch=3, newest_ts_ms=NEWEST_MS)
    other.learn(rows.seen(), batch=3, newest_ts_ms=NEWEST_MS)
    assert_equal(one, other)
    nobody = rows_of(SPEC, 8, impressed=np.zeros(64, np.uint8))
    assert one.learn(nobody, batch=4, newest_ts_ms=NEWEST_MS) == {}
    assert_equal(one, other)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_bad_loss_is_refused_before_anything_changed(bad: float) -> None:
    learner, untouched = taught(SPEC, 3), taught(SPEC, 3)
    weight = np.ones(64, np.float32)
    weight[:] = bad
    with pytest.raises(BadLossError, match="batch 3"):
        learner.learn(rows_of(SPEC, 3, weight=weight), batch=3, newest_ts_ms=NEWEST_MS)
    assert_equal(learner, untouched)


def test_infinite_and_missing_values_are_values_like_others() -> None:
    learner = taught(SPEC, 2)
    values = rows_of(SPEC, 2).values
    values[::3], values[1::3] = np.inf, np.nan
    losses = learner.learn(rows_of(SPEC, 2, values=values), batch=2, newest_ts_ms=NEWEST_MS)
    assert all(np.isfinite(loss) for loss in losses.values())
    assert all(np.isfinite(tensor).all() for tensor in tensors_of(learner).values())


def test_an_id_has_a_row_of_its_own_after_k_learnt_rows_and_starts_near_the_rare_one() -> None:
    table = IdTable("item", SPEC.settings)
    table.learn(torch.tensor([0]), torch.ones(1, 4))
    table.admit([("a", 4), ("b", 5)])
    assert table.dictionary.ids == ["b"]
    assert (table.weights[1] - table.weights[0]).abs().max() <= 0.0101
    assert not torch.equal(table.weights[1], table.weights[0])
    assert table.accumulators[1] == 0.0


def test_doubling_a_table_keeps_rows_and_adagrad_state() -> None:
    table = IdTable("item", SPEC.settings)
    table.admit([(f"i{n}", 5) for n in range(1000)])
    table.learn(torch.arange(1001), torch.randn(1001, 4))
    before, sums = table.weights[:1001].clone(), table.accumulators[:1001].clone()
    table.admit([(f"i{n}", 5) for n in range(1000, 3000)])
    assert table.rows == 3001 <= len(table.weights) == len(table.accumulators)
    assert torch.equal(table.weights[:1001], before)
    assert torch.equal(table.accumulators[:1001], sums)
    assert (table.accumulators[1001:] == 0).all()
    assert (sums > 0).all()


def test_which_positions_are_hidden_follows_from_seed_and_batch() -> None:
    drawn = hidden(3, 17, 10_000, 0.1)
    assert (drawn == hidden(3, 17, 10_000, 0.1)).all()
    assert drawn.mean() == pytest.approx(0.1, abs=0.02)
    assert (drawn != hidden(3, 18, 10_000, 0.1)).any()
    assert (drawn != hidden(4, 17, 10_000, 0.1)).any()
    assert not hidden(3, 17, 100, 0.0).any()


def test_position_and_its_columns_move_logged_clicks_only() -> None:
    learner, rows = taught(SPEC, 30), rows_of(SPEC, 50)
    elsewhere = rows_of(SPEC, 50, position=np.full(64, 7, np.int32))
    elsewhere.values[:, 3] = 1.0
    logged, moved = (learner.predict(r, at="logged") for r in (rows, elsewhere))
    assert not np.allclose(logged["ctr"], moved["ctr"])
    assert (logged["cvr"] == moved["cvr"]).all()
    neutral, same = (learner.predict(r, at="reference") for r in (rows, elsewhere))
    assert all((neutral[name] == same[name]).all() for name in neutral)


def test_a_click_at_the_top_is_worth_less_than_one_below() -> None:
    learner = taught(spec_of(learning_rate=0.02), 120)
    rows = rows_of(SPEC, 99)
    top, below = (
        learner.predict(rows_of(SPEC, 99, position=np.full(64, p, np.int32)), at="logged")["ctr"]
        for p in (0, 5)
    )
    assert (top > below).all()
    assert top == pytest.approx(learner.predict(rows, at="reference")["ctr"])


def test_age_is_an_input_when_learning_and_nothing_when_serving() -> None:
    learner, rows = taught(SPEC, 20), rows_of(SPEC, 50)
    new = learner.predict(rows, at="logged")["ctr"]
    old = learner.predict(rows, at="logged", newest_ts_ms=EPOCH_MS + 10**9)["ctr"]
    assert not np.allclose(new, old)
    without = taught(spec_of(example_age=False), 5)
    old = without.predict(rows, at="logged", newest_ts_ms=EPOCH_MS + 10**9)["ctr"]
    assert (old == without.predict(rows, at="logged")["ctr"]).all()


def test_growing_by_a_column_keeps_every_other_weight_and_every_prediction() -> None:
    older = taught(SPEC, 8)
    columns = (COLUMNS[0], NEW_COLUMN, *COLUMNS[1:])
    grown = Learner(spec_of(columns))
    assert grown.adopt(older) == ["fresh"]

    rows = rows_of(SPEC, 20)
    values = np.insert(rows.values, 1, np.linspace(0, 90, 64, dtype=np.float32), axis=1)
    same = rows_of(SPEC, 20, values=values)
    for at in ("logged", "reference"):
        old, new = (m.predict(r, at=at) for m, r in ((older, rows), (grown, same)))
        assert all(new[name] == pytest.approx(old[name], rel=1e-5) for name in old)

    before, after = tensors_of(older), tensors_of(grown)
    for name in ("network.buckets.table", "adam.exp_avg.buckets.table"):
        assert np.array_equal(np.delete(after[name], 1, 0), before[name])
    for name in ("network.mmoe.hidden", "adam.exp_avg_sq.mmoe.hidden"):
        assert np.array_equal(np.delete(after[name], slice(3, 6), 0), before[name])
    assert np.array_equal(
        np.delete(after["network.wide.weight"], 1, 1), before["network.wide.weight"]
    )
    kept = ["ids.item", "adagrad.item", "network.mmoe.expert", "network.position.table"]
    assert all(np.array_equal(before[name], after[name]) for name in kept)

    grown.learn(same, batch=8, newest_ts_ms=NEWEST_MS)
    learnt = tensors_of(grown)
    assert np.abs(learnt["network.mmoe.hidden"][3:6]).max() > 0
    assert learnt["moments.rows"][1] == len(same.seen()) < learnt["moments.rows"][0]


def test_a_redefined_column_starts_anew_and_a_lost_one_is_dropped() -> None:
    older = taught(SPEC, 4)
    redefined = msgspec.structs.replace(COLUMNS[0], hash="other")
    grown = Learner(spec_of((redefined, COLUMNS[2], COLUMNS[3])))
    assert grown.adopt(older) == ["item_ctr"]
    before, after = tensors_of(older), tensors_of(grown)
    assert np.array_equal(after["network.buckets.table"][1], before["network.buckets.table"][2])
    assert np.array_equal(after["moments.means"], [0.0, before["moments.means"][2]])


def test_a_model_of_other_sizes_cannot_be_adopted() -> None:
    with pytest.raises(ValueError, match=r"6 became 7: a size in \[model\] changed"):
        Learner(spec_of(expert_size=7)).adopt(taught(SPEC, 1))


def test_a_ranker_scores_as_the_learner_predicts_at_the_reference() -> None:
    learner = taught(SPEC, 12)
    rows = rows_of(SPEC, 40)
    asked = {name: rows.ids[name].take([0] * 64) for name in ("user", "query")}
    rows = rows_of(SPEC, 40, ids={**rows.ids, **asked})
    ranker = Ranker.load(SPEC, learner.serving_tensors(), learner.dictionary(), "v1")
    scores = ranker.score(matrix_of(SPEC, rows))
    expected = learner.predict(rows, at="reference")
    assert scores.version == "v1"
    assert list(scores) == ["ctr", "cvr", "ctcvr"]
    assert all((scores[name] == expected[name]).all() for name in expected)
    assert scores["ctr"].dtype == np.float32


def test_a_ranker_is_not_moved_by_what_the_learner_learns_after() -> None:
    learner, rows = taught(SPEC, 5), rows_of(SPEC, 40)
    ranker = Ranker.load(SPEC, learner.serving_tensors(), learner.dictionary(), "v1")
    before = ranker.score(matrix_of(SPEC, rows))["ctr"]
    taught(SPEC, 5, first=5, learner=learner)
    assert (ranker.score(matrix_of(SPEC, rows))["ctr"] == before).all()


def test_a_tensor_that_does_not_fit_is_named() -> None:
    learner = taught(SPEC, 3)
    tensors = learner.serving_tensors()
    tensors["ids.item"] = tensors["ids.item"][:-1]
    with pytest.raises(TensorError, match=r"'ids.item': shape"):
        Ranker.load(SPEC, tensors, learner.dictionary(), "v1")
    tensors = learner.serving_tensors()
    tensors["network.bias"] = tensors["network.bias"].double()
    with pytest.raises(TensorError, match=r"'network.bias': torch.float64"):
        Ranker.load(SPEC, tensors, learner.dictionary(), "v1")
    del tensors["network.bias"]
    with pytest.raises(TensorError, match=r"'network.bias' is missing"):
        Ranker.load(SPEC, tensors, learner.dictionary(), "v1")
