"""Strings in Redis that no worker of ours wrote: an error that names them, never other numbers."""

from __future__ import annotations

import pytest

from tenuto.features.deadline import StoreUnavailableError
from tenuto.features.progress import Entry
from tenuto.features.reader import Reader, Request
from tenuto.features.sums import DamagedValueError
from tenuto.presets.video import app

FEATURES = app.feature_set()
READER = Reader(FEATURES, 1)
ITEMS = ["a", "b", "c"]
REQUEST = Request("r", "u", "q", 1_650_000_000_000)


def read(changes: dict[int, bytes | None]) -> None:
    """Read three items of which the ``changes``, by index, are stored otherwise."""
    plan = READER.plan(REQUEST, ITEMS, {})
    values: list[bytes | None] = [None] * len(plan.keys)
    entry = Entry(b"x" * 16, 0, 0, 10, REQUEST.ts_ms, 0).pack()
    values[0] = entry * len(FEATURES.layout.topics)
    view, places = next(span for span in plan.spans if span[0].entity.name == "item")
    for at, change in changes.items():
        place = places[at]
        assert place is not None
        values[place] = bytes(view.size) if change is None else change
    READER.decode(REQUEST, ITEMS, {}, REQUEST.ts_ms, plan, values)


ITEM = next(v for v in FEATURES.layout.views if v.entity.name == "item")


def test_values_of_the_views_size_are_read() -> None:
    read({0: None, 1: None})


@pytest.mark.parametrize("foreign", [b"12", b"x" * (ITEM.size - 1), b"x" * (ITEM.size + 4)])
def test_a_value_of_another_size_is_an_error(foreign: bytes) -> None:
    with pytest.raises(DamagedValueError, match=f"{len(foreign)} bytes for a item, must be"):
        read({1: foreign})


def test_two_wrong_sizes_that_add_up_do_not_shift_what_lies_between() -> None:
    with pytest.raises(DamagedValueError):
        read({0: bytes(ITEM.size - 4), 1: None, 2: bytes(ITEM.size + 4)})


def test_a_ranker_that_knows_what_to_do_without_a_store_knows_it_here() -> None:
    assert issubclass(DamagedValueError, StoreUnavailableError)
