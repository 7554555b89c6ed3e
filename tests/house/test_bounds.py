"""The table of bounds in docs/production.md names settings and metrics that there are."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from tenuto.features.entities import Entity
from tenuto.features.rules import TimeRules
from tenuto.features.schema import FeatureSet
from tenuto.presets import video
from tenuto.settings import Settings

DOCS = Path(__file__).parents[2] / "docs"
SECTION = (DOCS / "production.md").read_text().split("\n## Bounds\n")[1].split("\n## ")[0]
TABLES = [
    [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table.splitlines()][2:]
    for table in re.findall(r"(?:^\|.*\n)+", SECTION, re.MULTILINE)
]
BOUNDS, ENTITIES = TABLES
# Of a key as 20 bytes of id make it, and Redis's own.
OVERHEAD_BYTES = 90


def test_every_bound_says_what_how_far_and_what_happens() -> None:
    assert len(BOUNDS) > 10
    for row in BOUNDS:
        assert len(row) == 5, row
        assert row[0]
        assert row[1]


def test_the_settings_named_exist() -> None:
    settings = msgspec.to_builtins(Settings())
    named = [name for row in BOUNDS for name in re.findall(r"`(\w+)\.(\w+)`", row[2])]
    assert len(named) > 5
    for section, name in named:
        assert name in settings[section], (section, name)


def test_the_metrics_named_are_documented() -> None:
    documented = set(re.findall(r"^\| `(tenuto_\w+)`", (DOCS / "metrics.md").read_text(), re.M))
    named = set(re.findall(r"`(tenuto_\w+)`", SECTION))
    assert named <= documented, named - documented


@pytest.mark.parametrize("column", [1, 2], ids=["small", "full"])
def test_the_bytes_of_an_entity_are_those_of_the_layout(column: int) -> None:
    layout = FeatureSet.of((video.small, video.full)[column - 1], TimeRules()).layout
    for row in ENTITIES:
        entity: Entity = getattr(video, row[0])
        stated = int(row[column].replace(",", ""))
        assert stated == pytest.approx(layout.view(entity).size + OVERHEAD_BYTES, rel=0.02)
