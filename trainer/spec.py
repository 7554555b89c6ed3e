"""What a model takes in and gives out: a value that follows from the application and settings.

It is the part of a checkpoint that says how to read the rest; no torch here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from tenuto.features.feature import Feature
from tenuto.features.moments import Age, Clock, Supplied
from tenuto.features.schema import FeatureSet
from tenuto.features.values import ClicksOverExpected, Mean, Rate, WilsonBound
from tenuto.trainer.model_settings import ModelSettings
from tenuto.trainer.tasks import Task

EXAMPLE_AGE = "example_age"
ID_COLUMNS = {"user": "user_id", "query": "query", "item": "item_id"}
"""Embedding table -> sample column of its ids."""


class Transform(msgspec.Struct, frozen=True):
    """How a raw value becomes a place ``z`` among soft buckets ``0 .. K``.

    ``log``: ``z = s log(1 + x / unit)`` for x ≥ 0. ``signed``: the same of \\|x\\| to both sides of
    the middle. ``linear``: ``z = x / unit``. Clipped to ``[0, K]``; ``s`` is such that ``reach``
    lands on ``K`` (on either end, where signed).
    """

    kind: Literal["log", "signed", "linear"]
    unit: float = 1.0
    reach: float = 1e6


class InputColumn(msgspec.Struct, frozen=True):
    """A column of the schema that the model takes by name.

    Attributes:
        hash: of its definition; a column of that name and another hash is refused.
        role: what it feeds: all of the model, or only the position tower.
    """

    name: str
    hash: str
    transform: Transform
    role: Literal["main", "position"] = "main"


class Head(msgspec.Struct, frozen=True):
    """A task as the model knows it; see :class:`tenuto.trainer.tasks.Task`."""

    name: str
    label: str
    given: str | None
    joint: str
    weight: float
    prior: float

    @property
    def learnt(self) -> str:
        """The probability that the loss is of."""
        return self.joint or self.name

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of its probabilities."""
        return (self.name, self.joint) if self.joint else (self.name,)


class ModelSpec(msgspec.Struct, frozen=True):
    """Everything that decides a model's shape and meaning."""

    columns: tuple[InputColumn, ...]
    ids: tuple[str, ...]
    heads: tuple[Head, ...]
    settings: ModelSettings

    @property
    def names(self) -> list[str]:
        """Input columns in order."""
        return [column.name for column in self.columns]

    @property
    def outputs(self) -> list[str]:
        """Names of the probabilities in a score, in order."""
        return [name for head in self.heads for name in head.outputs]

    @property
    def objective(self) -> str:
        """The probability that a slate is ordered by: that of the last head's loss."""
        return self.heads[-1].learnt


def spec_of(
    features: FeatureSet,
    tasks: Sequence[Task],
    settings: ModelSettings,
    position_features: Sequence[str] = (),
) -> ModelSpec:
    """The model of an application.

    Args:
        features: columns.
        tasks: heads.
        settings: sizes.
        position_features: columns that feed only the position tower, such as the device.

    Raises:
        ValueError: a position feature that there is not.
    """
    unknown = sorted(set(position_features) - set(features.names))
    if unknown:
        raise ValueError(f"position_features: no feature {', '.join(unknown)}")
    columns = []
    for feature, column in zip(features.features, features.columns, strict=True):
        placed = feature.name in position_features or _is_of_position(feature)
        role: Literal["main", "position"] = "position" if placed else "main"
        columns.append(InputColumn(column.name, column.hash, transform_of(feature), role))
    heads = [Head(t.name, t.label.name, t.given, t.joint, t.weight, t.prior) for t in tasks]
    return ModelSpec(tuple(columns), tuple(ID_COLUMNS), tuple(heads), settings)


def transform_of(feature: Feature) -> Transform:
    """How a feature's values are spread over soft buckets, by what it measures."""
    match feature:
        case Rate() | WilsonBound():
            return Transform("log", 0.01, 1.0)
        case ClicksOverExpected():
            return Transform("log", 0.1, 20.0)
        case Mean(bounded=True):
            return Transform("log", 0.05, 1.0)
        case Mean():
            of_time = (feature.numerator.measure.field or "").endswith("_ms_delta")
            return Transform("log", 1_000.0, 1e7) if of_time else Transform("log", 1.0, 1e3)
        case Age():
            return Transform("log", 60.0, 1e8)
        case Clock():
            return Transform("linear", 24.0 / 16.0 if feature.unit == "hour" else 1.0)
        case Supplied():
            return Transform("signed", 0.1, 1e6)
    return Transform("log", 1.0, 1e6)


def _is_of_position(feature: Feature) -> bool:
    # A mean position tells where an item was shown, which the model must not learn as merit.
    return isinstance(feature, Mean) and feature.numerator.measure.field == "position"
