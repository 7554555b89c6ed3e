"""Features that are formed together, and those that must not be."""

from __future__ import annotations

import numpy as np

from tenuto.features.entities import Counter
from tenuto.features.feature import Floats, Read
from tenuto.features.sums import Ints
from tenuto.features.together import formulas
from tenuto.features.values import Sum, sums
from tenuto.features.windows import Window
from tenuto.presets import video


class Halved(Sum):
    def values(self, read: Read) -> Floats:
        return super().values(read) / 2.0


class Sevens:
    """A read of two items in which every sum is seven."""

    request_ts_ms = 0

    def total(self, counter: Counter, window: Window) -> Ints:
        return np.full(2, 7)

    def by_position(self, counter: Counter, window: Window) -> list[Ints]:
        raise AssertionError

    def first_seen_ms(self, counter: Counter, window: Window) -> Ints:
        raise AssertionError

    def context(self, name: str) -> Floats | None:
        raise AssertionError


def test_kinds_go_together_by_entity_and_one_derived_from_goes_alone() -> None:
    hour, day, week = sums(video.item.impressions, ["1h", "1d", "7d"])
    assert isinstance(day, Sum)
    halved = Halved(day.name, day.counter, day.window, day.fresh_within_ms)
    (of_user,) = sums(video.user.impressions, "1d")
    formed = formulas([hour, halved, of_user, week])
    assert [indices for indices, _ in formed] == [[0, 3], [1], [2]]
    assert halved.values(Sevens()).tolist() == [3.5, 3.5]
    assert day.values(Sevens()).tolist() == [7.0, 7.0]
