"""Names that samples have already are refused where they are declared."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from tenuto.features.feature import Feature
from tenuto.features.moments import context
from tenuto.features.schema import DeclarationError
from tenuto.platform import Platform
from tenuto.presets import video
from tenuto.snapshot import column_names
from tenuto.snapshot.join import label_schema
from tenuto.snapshot.labels import Label, SampleStream, first
from tenuto.snapshot.samples import ORIGIN_FIELDS, REQUEST_FIELDS


def app(features: Iterable[Feature], labels: list[Label]) -> Platform:
    stream = SampleStream("default", labels)
    return Platform("app", events=video.events, features=features, samples=[stream])


def test_the_names_are_those_of_the_samples() -> None:
    assert tuple(field.name for field in REQUEST_FIELDS) == column_names.REQUEST_COLUMNS
    assert tuple(field.name for field in ORIGIN_FIELDS) == column_names.ORIGIN_COLUMNS
    joined = label_schema(video.samples[0]).names
    assert tuple(joined[: len(column_names.IMPRESSION_COLUMNS)]) == column_names.IMPRESSION_COLUMNS


@pytest.mark.parametrize(
    ("name", "owner"),
    [
        ("duration_ms", "label 'play_ms'"),
        ("clicked", "label 'clicked'"),
        ("click_delay_ms", "label 'clicked'"),
        ("position", "every sample"),
        ("weight", "every sample"),
        ("impressed", "every sample"),
    ],
)
def test_a_feature_that_would_hide_another_column_is_refused(name: str, owner: str) -> None:
    with pytest.raises(DeclarationError, match=f"feature '{name}'.*{owner}.*another name"):
        app([*video.small, *context(name)], video.labels)


def test_a_label_that_would_hide_a_column_of_every_sample_is_refused() -> None:
    with pytest.raises(DeclarationError, match=r"label 'model' .*every sample"):
        app(video.small, [first(video.clicks, "model", window="10m")])


@pytest.mark.parametrize("name", ["served_score", "hour__state"])
def test_a_feature_named_like_a_score_or_a_state_is_refused(name: str) -> None:
    with pytest.raises(DeclarationError, match=name):
        app([*video.small, *context(name)], video.labels)


def test_two_streams_may_have_a_column_of_one_name() -> None:
    slow = SampleStream("slow", [video.clicked.within("1h")])
    Platform("app", events=video.events, features=video.small, samples=[*video.samples, slow])
