"""Every declared feature keeps the rules, and the checks that say so catch what breaks them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from tenuto.features.entities import Counter, Entity, count, total
from tenuto.features.events import Event, Field
from tenuto.features.feature import Feature, Floats, Read, counter_definition
from tenuto.features.moments import context
from tenuto.features.values import mean, rate, sums
from tenuto.features.windows import Window
from tenuto.presets import video
from tenuto.testing import check_feature, check_features

PRESETS = {f.name: f for f in [*video.small, *video.full]}

purchases = Event("purchases", fields={"author_id": str, "amount_cents": Field(int, ge=0)})
author = Entity(
    "author",
    "author_id",
    {"purchases": count(purchases), "amount_cents": total(purchases, "amount_cents")},
)


@pytest.mark.parametrize("feature", PRESETS.values(), ids=PRESETS)
def test_a_feature_of_the_presets_conforms(feature: Feature) -> None:
    check_feature(feature)


@pytest.mark.parametrize(
    "feature",
    [
        *sums(author.amount_cents, "3d"),
        *rate(author.purchases, author.purchases, "1h", name="same", prior=0.2),
        *mean(author.amount_cents, author.purchases, "7d", name="basket_cents"),
        *context("recall_score"),
        *context("device_age_days", per="request", type=int),
    ],
    ids=lambda f: f.name,
)
def test_a_feature_of_an_applications_own_events_conforms(feature: Feature) -> None:
    check_feature(feature)


@pytest.mark.parametrize("preset", ["small", "full"])
def test_the_features_of_a_preset_go_together(preset: str) -> None:
    check_features(getattr(video, preset))


def test_hashes_are_the_same_in_every_process() -> None:
    program = "from tenuto.presets import video; print([f.hash for f in video.full])"
    printed = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": seed, "LC_ALL": locale},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed, locale in (("1", "C"), ("2", "C.UTF-8"))
    }
    assert printed == {f"{[f.hash for f in video.full]}\n"}


HOUR = Window.of("1h")


@dataclass(frozen=True)
class Share(Feature):
    """Clicks per impression, and ways of getting it wrong."""

    name: str = "share"
    counter: Counter = video.item.impressions
    window: Window = HOUR
    offset: float = 0.5
    fresh_within_ms: int = 1_000

    @property
    def needs(self) -> list[tuple[Counter, Window]]:
        return [(self.counter, self.window)]

    def values(self, read: Read) -> Floats:
        return read.total(self.counter, self.window) / (self.offset + 1.0)

    @property
    def definition(self) -> dict[str, Any]:
        of = counter_definition(self.counter, self.window)
        return {"kind": "share", "of": of, "offset": self.offset}


def broken(**members: Any) -> Feature:
    made: Callable[[], Feature] = type("Broken", (Share,), members)
    return made()


def total_of(read: Read) -> Any:
    return read.total(video.item.impressions, HOUR)


def changing(self: Any, read: Read) -> Floats:
    values = total_of(read)
    values += 1
    return values.astype(np.float64)


def undeclared(self: Any, read: Read) -> Floats:
    return read.total(video.item.clicks, HOUR).astype(np.float64)


BROKEN: dict[str, tuple[Feature, str]] = {
    "a name that is no column": (Share(name="item ctr"), "at most 128 letters"),
    "its name in the definition": (
        broken(definition=property(lambda self: {"kind": "x", "as": self.name})),
        "must not contain the column's name",
    ),
    "a definition that is no JSON": (
        broken(definition=property(lambda self: {"kind": "x", "of": self.counter})),
        "must be JSON",
    ),
    "a parameter that the definition forgets": (
        broken(
            definition=property(
                lambda self: {"kind": "x", "of": counter_definition(self.counter, self.window)}
            )
        ),
        "another 'offset'",
    ),
    "no kind": (broken(definition=property(lambda self: {"x": self.name})), "'kind'"),
    "float32": (broken(values=lambda self, read: total_of(read).astype(np.float32)), "float64"),
    "a scalar": (broken(values=lambda self, read: 1.0), "NumPy array"),
    "another shape": (broken(values=lambda self, read: np.zeros(3)), "must be"),
    "a division by zero": (
        broken(values=lambda self, read: 1.0 / total_of(read).astype(np.float64)),
        "guard it",
    ),
    "infinity": (
        broken(values=lambda self, read: np.where(total_of(read) == 0, np.inf, 1.0)),
        "finite or NaN",
    ),
    "what it did not declare": (broken(values=undeclared), "not among its needs"),
    "context that it did not declare": (
        broken(values=lambda self, read: read.context("score")),
        "not in its contexts",
    ),
    "a value of the other candidates": (
        broken(
            values=lambda self, read: total_of(read) - float(np.max(total_of(read), initial=0))
        ),
        "depends on the other candidates",
    ),
    "the order of the candidates": (
        broken(values=lambda self, read: np.cumsum(total_of(read)).astype(np.float64)),
        "depends on the other candidates",
    ),
    "another entity to be missing with": (
        broken(missing_with=property(lambda self: video.user.clicks)),
        "an entity that it needs",
    ),
    "a hash of another form": (broken(hash="zz"), "16 hex digits"),
}  # fmt: skip


def test_a_feature_that_conforms_is_the_ground_of_the_broken_ones() -> None:
    check_feature(Share())


@pytest.mark.parametrize(("feature", "rule"), BROKEN.values(), ids=BROKEN)
def test_a_feature_that_breaks_a_rule_is_refused_by_name(feature: Feature, rule: str) -> None:
    with pytest.raises(AssertionError, match=rule) as refusal:
        check_feature(feature)
    assert feature.name in str(refusal.value)


def test_a_feature_that_writes_to_what_it_was_given_is_refused() -> None:
    with pytest.raises(ValueError, match="read-only"):
        check_feature(broken(values=changing))


def test_two_columns_of_one_name_are_refused_together() -> None:
    with pytest.raises(AssertionError, match="two columns are named share"):
        check_features([Share(), Share(offset=1.0)])
