"""Layers of the model: values worked out by hand, and gradients checked numerically."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tenuto.trainer.model import rowwise_adagrad
from tenuto.trainer.model.losses import binary_loss, joint_loss, log_joint, log_not_joint
from tenuto.trainer.model.mmoe import Mmoe
from tenuto.trainer.model.position_tower import PositionTower
from tenuto.trainer.model.soft_bucket import Places, SoftBuckets, interpolate
from tenuto.trainer.model.wide import Moments, Wide
from tenuto.trainer.spec import Transform

NAN = float("nan")
floats = st.floats(-30.0, 30.0)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def test_the_reach_of_a_log_transform_is_its_last_bucket_and_nothing_is_its_first() -> None:
    places = Places([Transform("log", 0.01, 1.0)], 16)
    found = places(torch.tensor([[0.0], [1.0], [50.0], [-3.0], [math.inf]]))
    assert found.flatten().tolist() == pytest.approx([0.0, 16.0, 16.0, 0.0, 16.0])


def test_a_log_transform_is_s_log_of_one_plus_x_over_its_unit() -> None:
    place = Places([Transform("log", 2.0, 100.0)], 10)(torch.tensor([[7.0]])).item()
    assert place == pytest.approx(10 * math.log(1 + 7 / 2) / math.log(1 + 100 / 2))


def test_a_signed_transform_spreads_to_both_sides_of_the_middle() -> None:
    places = Places([Transform("signed", 0.1, 1e4)], 8)
    found = places(torch.tensor([[-1e4], [-1.0], [0.0], [1.0], [1e4]])).flatten()
    assert found[[0, 2, 4]].tolist() == pytest.approx([0.0, 4.0, 8.0], abs=1e-5)
    assert (found[1] + found[3]).item() == pytest.approx(8.0, abs=1e-5)


def test_a_value_is_the_mix_of_its_two_buckets_and_a_missing_one_has_its_own_row() -> None:
    buckets = SoftBuckets([Transform("linear", 1.0)] * 2, 3, 1, seed=0, name="t")
    with torch.no_grad():
        buckets.table.copy_(torch.tensor([[[-9.0], [0.0], [10.0], [20.0], [40.0]]] * 2))
    found = buckets(torch.tensor([[0.25, 2.0], [NAN, 2.5], [3.0, 99.0]]))
    assert found[:, :, 0].tolist() == [[2.5, 20.0], [-9.0, 30.0], [40.0, 40.0]]


def test_gradients_of_soft_buckets_are_right_at_every_kind_of_place() -> None:
    table = torch.randn(2, 6, 3, dtype=torch.float64, requires_grad=True)
    places = torch.tensor([[0.0, 4.0], [1.5, NAN], [3.99, 2.0], [NAN, 0.1]], dtype=torch.float64)
    rows = torch.tensor([0, 6])
    assert torch.autograd.gradcheck(lambda t: interpolate(t, places, rows), (table,))


@given(floats, floats)
def test_the_two_logs_of_a_joint_probability_make_one(given_logit: float, logit: float) -> None:
    a, b = (torch.tensor([x], dtype=torch.float64) for x in (given_logit, logit))
    both = log_joint(a, b).exp() + log_not_joint(a, b).exp()
    assert both.item() == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("label", [0.0, 1.0])
@pytest.mark.parametrize("logits", [(80.0, 80.0), (-300.0, -300.0), (300.0, -300.0), (0.0, 500.0)])
def test_a_joint_loss_and_its_gradients_are_finite_where_probabilities_saturate(
    label: float, logits: tuple[float, float]
) -> None:
    a, b = (torch.tensor([x], requires_grad=True) for x in logits)
    loss = joint_loss(a, b, torch.tensor([label]), torch.ones(1))
    found = torch.autograd.grad(loss, (a, b))
    assert loss.isfinite()
    assert all(gradient.isfinite().all() for gradient in found)


def test_a_joint_loss_is_the_log_loss_of_the_product() -> None:
    a, b = torch.randn(2, 50, dtype=torch.float64)
    labels = (torch.rand(50) < 0.3).double()
    weights = torch.rand(50).double()
    p = a.sigmoid() * b.sigmoid()
    plain = -(labels * p.log() + (1 - labels) * (1 - p).log())
    expected = (plain * weights).sum() / weights.sum()
    assert joint_loss(a, b, labels, weights).item() == pytest.approx(expected.item())


def test_gradients_of_the_losses_are_right() -> None:
    a, b = (torch.randn(7, dtype=torch.float64, requires_grad=True) for _ in range(2))
    labels = torch.tensor([0, 1, 0, 1, 1, 0, 0]).double()
    weights = torch.rand(7).double()
    assert torch.autograd.gradcheck(lambda x: binary_loss(x, labels, weights), (a,))
    assert torch.autograd.gradcheck(lambda x, y: joint_loss(x, y, labels, weights), (a, b))


def test_gradients_of_the_position_tower_are_right() -> None:
    tower = PositionTower(4, [Transform("linear", 1.0)], 3, 5, 1, 0).double()
    codes, values = tower.codes(torch.tensor([0, 2, -1, 9])), torch.tensor([[0.5], [NAN], [2], [1]])

    def of(table: torch.Tensor, out: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
        given = {"table": table, "out": out, "columns.table": columns}
        found = torch.func.functional_call(tower, given, (codes, values.double()))
        assert isinstance(found, torch.Tensor)
        return found

    columns = tower.columns
    assert columns is not None
    parts = (tower.table, torch.randn(5, 1).double(), columns.table)
    assert torch.autograd.gradcheck(of, tuple(p.detach().requires_grad_() for p in parts))


def test_a_row_at_the_reference_position_has_no_share_of_position() -> None:
    tower = PositionTower(4, [], 3, 5, 1, 0)
    with torch.no_grad():
        tower.out.normal_()
    found = tower(tower.codes(torch.tensor([0, 3, -1, 7])), torch.zeros(4, 0)).flatten().tolist()
    assert found[0] == 0.0
    assert found[1] == found[3] != 0.0
    assert found[2] not in (0.0, found[1])


def test_experts_are_mixed_by_each_heads_own_gate() -> None:
    mmoe = Mmoe(6, 2, 3, 5, 4, 3, 0)
    with torch.no_grad():
        for parameter in mmoe.parameters():
            parameter.normal_()
    x = torch.randn(10, 6)
    hidden = [torch.relu(x @ mmoe.hidden[:, e] + mmoe.hidden_bias[e]) for e in range(3)]
    experts = [torch.relu(hidden[e] @ mmoe.expert[e] + mmoe.expert_bias[e]) for e in range(3)]
    for head in range(2):
        gate = (x @ mmoe.gate[:, head] + mmoe.gate_bias[head]).softmax(1)
        mixed = torch.stack([gate[:, e : e + 1] * experts[e] for e in range(3)]).sum(0)
        tower = torch.relu(mixed @ mmoe.tower[head] + mmoe.tower_bias[head])
        expected = (tower @ mmoe.out[head]).squeeze(1)
        assert torch.allclose(mmoe(x)[:, head], expected, rtol=1e-4, atol=1e-4)


def test_moments_of_parts_are_those_of_the_whole() -> None:
    values = np.random.default_rng(0).normal(5, 3, (200, 3)).astype(np.float32)
    values[::7, 1] = np.nan
    values[:, 2] = np.nan
    found = Moments.empty(3)
    for part in np.split(values, [1, 17, 90]):
        found = found.add(part)
    assert found.means[:2] == pytest.approx(np.nanmean(values[:, :2], 0))
    assert found.inverse_deviations[:2] == pytest.approx(1 / np.nanstd(values[:, :2], 0), rel=1e-5)
    assert found.inverse_deviations[2] == 0.0
    assert found.rows.tolist() == [200] * 3


def test_moments_of_a_column_stay_once_it_had_enough_rows() -> None:
    first, later = np.ones((10, 1), np.float32), np.full((10, 1), 9, np.float32)
    once = Moments.empty(1).add(first, enough=10)
    assert once.add(later, enough=10).means.tolist() == [1.0]
    assert once.add(later, enough=11).means.tolist() == [5.0]


def test_the_wide_path_says_nothing_of_mean_and_missing_values() -> None:
    wide = Wide(1, 1)
    with torch.no_grad():
        wide.weight.fill_(2.0)
    wide.standardise_by(Moments.empty(1).add(np.array([[1.0], [3.0]], np.float32)))
    found = wide(torch.tensor([[2.0], [NAN], [3.0]])).flatten().tolist()
    assert found == pytest.approx([0.0, 0.0, 2.0 * (1 / (1 + math.exp(-1)) - 0.5)])


def test_row_wise_adagrad_divides_by_the_root_of_the_rows_own_past() -> None:
    weights, sums = torch.zeros(3, 2), torch.zeros(3)
    rows = torch.tensor([2, 0])
    for _ in range(2):
        gradients = torch.tensor([[3.0, 4.0], [0.0, 1.0]])
        rowwise_adagrad.step(weights, sums, rows, gradients, rate=0.1, floor=0.0)
    assert sums.tolist() == pytest.approx([1.0, 0.0, 25.0])
    step = 0.1 * (1 / math.sqrt(12.5) + 1 / math.sqrt(25.0))
    assert weights[2].tolist() == pytest.approx([-3 * step, -4 * step])
    assert weights[1].tolist() == [0.0, 0.0]
