"""The ranker at serving: columns by name, unknown ids, and nothing that is not there."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from learner_rows import COLUMNS, matrix_of, rows_of, spec_of, taught

from tenuto.features.schema import Column
from tenuto.trainer.ranker import ColumnError, Ranker

SPEC = spec_of()


@pytest.fixture(scope="module")
def ranker() -> Ranker:
    learner = taught(SPEC, 10)
    return Ranker.load(SPEC, learner.serving_tensors(), learner.dictionary(), "v7")


MATRIX = matrix_of(SPEC, rows_of(SPEC, 40))


def test_columns_are_taken_by_name_wherever_they_stand(ranker: Ranker) -> None:
    order = [2, 0, 3, 1]
    columns = (*(MATRIX.columns[i] for i in order), Column("unknown to the model", "x"))
    values = np.hstack([MATRIX.values[:, order], np.full((64, 1), np.nan, np.float32)])
    moved = replace(MATRIX, columns=columns, values=values)
    expected = ranker.score(MATRIX)
    assert all((ranker.score(moved)[name] == expected[name]).all() for name in expected)
    assert (ranker.score(MATRIX)["ctr"] == expected["ctr"]).all()


def test_a_request_is_scored_on_one_thread_and_torch_has_its_threads_again(ranker: Ranker) -> None:
    seen: list[int] = []
    before = torch.get_num_threads()
    hook = ranker._network.register_forward_hook(lambda *_: seen.append(torch.get_num_threads()))
    try:
        torch.set_num_threads(2)
        ranker.score(MATRIX)
        assert (seen, torch.get_num_threads()) == ([1], 2)
    finally:
        hook.remove()
        torch.set_num_threads(before)


def test_an_absent_column_is_named(ranker: Ranker) -> None:
    without = replace(MATRIX, columns=MATRIX.columns[1:], values=MATRIX.values[:, 1:])
    with pytest.raises(ColumnError, match="'item_ctr': model v7 needs it"):
        ranker.score(without)


def test_a_redefined_column_is_named_with_both_definitions(ranker: Ranker) -> None:
    columns = (Column("item_ctr", "other"), *MATRIX.columns[1:])
    with pytest.raises(ColumnError, match=r"'item_ctr': the matrix defines it as 'other'.*'h1'"):
        ranker.score(replace(MATRIX, columns=columns))


def test_a_column_that_only_the_position_tower_takes_is_not_needed_to_serve(ranker: Ranker) -> None:
    assert COLUMNS[3].role == "position"
    without = replace(MATRIX, columns=MATRIX.columns[:3], values=MATRIX.values[:, :3])
    assert (ranker.score(without)["ctr"] == ranker.score(MATRIX)["ctr"]).all()


def test_unknown_ids_score_like_one_another(ranker: Ranker) -> None:
    def scored(name: str) -> np.ndarray:
        return ranker.score(replace(MATRIX, items=[name] * 64, user_id=name, query=name))["ctr"]

    assert (scored("never seen") == scored("nor this")).all()
    assert (scored("never seen") != ranker.score(MATRIX)["ctr"]).any()


def test_no_candidates_have_no_scores(ranker: Ranker) -> None:
    none = MATRIX.take([])
    assert {name: score.shape for name, score in ranker.score(none).items()} == {
        "ctr": (0,),
        "cvr": (0,),
        "ctcvr": (0,),
    }


def test_a_score_that_there_is_not_is_named(ranker: Ranker) -> None:
    with pytest.raises(KeyError, match="no score 'cvrr': there are ctr, cvr, ctcvr"):
        ranker.score(MATRIX)["cvrr"]
