"""The dictionary of ids: admission, its bound, and that a restart changes nothing."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from tenuto.trainer.dictionary import RARE, Dictionary

batches = st.lists(
    st.dictionaries(st.sampled_from([f"id{n}" for n in range(30)]), st.integers(1, 4), max_size=6),
    max_size=30,
)


def test_an_id_is_admitted_with_the_batch_that_completes_k_learnt_rows() -> None:
    dictionary = Dictionary(admit_after=5, max_ids=10)
    assert dictionary.learn([("a", 4), ("b", 6)]) == ["b"]
    assert dictionary.codes(["a", "b"]) == [RARE, 1]
    assert dictionary.learn([("a", 1)]) == ["a"]
    assert dictionary.codes(["a", "b", "c"]) == [2, 1, RARE]


def test_at_the_cap_ids_stay_rare_and_are_counted() -> None:
    dictionary = Dictionary(admit_after=1, max_ids=2)
    assert dictionary.learn([("a", 1), ("b", 1), ("c", 1), ("d", 1)]) == ["a", "b"]
    assert dictionary.refused == 2
    assert dictionary.codes(["c", "d"]) == [RARE, RARE]


@given(batches)
def test_the_ids_that_wait_are_bounded_whatever_comes(learnt: list[dict[str, int]]) -> None:
    dictionary = Dictionary(admit_after=5, max_ids=8)
    for batch in learnt:
        dictionary.learn(batch.items())
        assert dictionary.pending <= 8


@given(batches)
def test_where_nothing_is_forgotten_admission_is_an_exact_count(
    learnt: list[dict[str, int]],
) -> None:
    dictionary = Dictionary(admit_after=5, max_ids=1000)
    totals: dict[str, int] = {}
    for batch in learnt:
        for one, rows in batch.items():
            totals[one] = totals.get(one, 0) + rows
        dictionary.learn(batch.items())
        assert set(dictionary.ids) == {one for one, rows in totals.items() if rows >= 5}


@given(batches, st.integers(0, 30))
def test_a_restart_at_any_batch_changes_nothing(learnt: list[dict[str, int]], cut: int) -> None:
    whole = Dictionary(admit_after=3, max_ids=6)
    parted = Dictionary(admit_after=3, max_ids=6)
    for number, batch in enumerate(learnt):
        if number == cut:
            saved = json.loads(json.dumps([parted.ids, parted.state()]))
            parted = Dictionary(admit_after=3, max_ids=6)
            parted.load(*saved)
        whole.learn(batch.items())
        parted.learn(batch.items())
    assert (parted.ids, parted.state()) == (whole.ids, whole.state())
