"""A wheel of this checkout, built and installed once, for tests of what users really import."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]
PACKAGES = ("features", "streams", "snapshot", "trainer")


@dataclass(frozen=True)
class Installed:
    """A wheel, and the folder that it is installed in, apart from every other package."""

    wheel: Path
    folder: Path


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """The wheel built from a copy of the checkout's sources: a build leaves files beside them."""
    work = tmp_path_factory.mktemp("wheel")
    source = work / "checkout"
    source.mkdir()
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(CHECKOUT / name, source)
    for name in (*PACKAGES, "tenuto"):
        leave_out = shutil.ignore_patterns("__pycache__")
        shutil.copytree(CHECKOUT / name, source / name, symlinks=True, ignore=leave_out)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    build = [*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(work)]
    subprocess.run([*build, str(source)], check=True)
    (wheel,) = work.glob("*.whl")
    folder = work / "installed"
    subprocess.run([*pip, "install", "--no-deps", "--target", str(folder), str(wheel)], check=True)
    return Installed(wheel, folder)


@pytest.fixture(scope="session")
def run_python(installed: Installed) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs ``python ARGUMENTS`` in a folder, with the installed wheel first on its path."""

    def run(cwd: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
        env = {name: value for name, value in os.environ.items() if "TENUTO" not in name}
        env["PYTHONPATH"] = str(installed.folder)
        return subprocess.run(
            [sys.executable, *arguments], cwd=cwd, env=env, capture_output=True, text=True
        )

    return run
