"""The wheel: everything under one name, and nobody else's names taken."""

from __future__ import annotations

import json
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

CHECKOUT = Path(__file__).parents[2]
PACKAGES = ("features", "streams", "snapshot", "trainer")

Python = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def names(installed: Any) -> set[str]:
    with zipfile.ZipFile(installed.wheel) as wheel:
        return {name for name in wheel.namelist() if not name.endswith("/")}


def test_its_only_name_is_tenuto(names: set[str]) -> None:
    tops = {name.partition("/")[0] for name in names}
    assert "tenuto" in tops
    assert [top for top in tops if not top.endswith(".dist-info")] == ["tenuto"]


def test_every_module_of_the_house_is_in_it_and_nothing_else(names: set[str]) -> None:
    expected = {
        f"tenuto/{path.relative_to(CHECKOUT)}"
        for package in PACKAGES
        for path in (CHECKOUT / package).rglob("*.py")
    }
    # rglob does not follow the links to the other packages.
    expected |= {str(path.relative_to(CHECKOUT)) for path in (CHECKOUT / "tenuto").rglob("*.py")}
    shipped = {name for name in names if name.endswith(".py")}
    assert shipped == expected


def test_it_says_that_it_is_typed(names: set[str]) -> None:
    assert "tenuto/py.typed" in names


LOOK = """
import json, sys
import features, streams
import tenuto, tenuto.features.values, tenuto.presets.video, tenuto.streams.codec
names = ("features", "streams", "tenuto", "tenuto.features", "tenuto.streams")
files = {name: sys.modules[name].__file__ for name in names}
print(json.dumps({"files": files, "theirs": features.WHOSE, "columns": len(
    tenuto.presets.video.app.feature_set().columns)}))
"""


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Somebody's repository that has packages of the same names as our folders."""
    for name in ("features", "streams"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text('WHOSE = "theirs"\n')
    return tmp_path


def test_it_lives_beside_a_repository_that_has_a_features_package_of_its_own(
    repository: Path, run_python: Python, installed: Any
) -> None:
    done = run_python(repository, "-c", LOOK)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert seen["theirs"] == "theirs"
    assert seen["columns"] > 0
    for name, file in seen["files"].items():
        home = installed.folder if name.startswith("tenuto") else repository
        assert Path(file).is_relative_to(home), name
