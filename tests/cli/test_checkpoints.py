"""``tenuto checkpoints`` as a person meets it."""

from __future__ import annotations

import json
import os
import sys
import uuid
from pathlib import Path

import pytest
from checkpoint_files import MODEL, checkpoint, version_folder
from click.testing import CliRunner, Result
from kafka import KafkaConsumer, TopicPartition

from tenuto import local
from tenuto.cli import main
from tenuto.trainer.checkpoints.writer import Publisher

OLD, NEW = checkpoint(1).version, checkpoint(2).version


@pytest.fixture(autouse=True)
def two_checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in list(os.environ):
        if name.startswith("TENUTO_"):
            monkeypatch.delenv(name)
    for number in (1, 2):
        Publisher("checkpoints", MODEL).publish(checkpoint(number))


def checkpoints(*arguments: str, common: tuple[str, ...] = ()) -> Result:
    return CliRunner().invoke(main, [*common, "checkpoints", *arguments])


def refused(code: int, *arguments: str) -> str:
    result = checkpoints(*arguments)
    assert result.exit_code == code, result.output
    (line,) = result.stderr.splitlines()
    return line.removeprefix("tenuto: ")


def listed() -> list[list[str]]:
    return [line.split() for line in checkpoints("list").output.splitlines()[1:]]


def test_list_marks_the_one_that_holds() -> None:
    old, new = listed()
    assert old[0] == OLD
    assert new[:2] == ["*", NEW]
    assert new[2:5] == ["2024-01-01T10:50:00.000Z", "1024", "2"]


def test_list_as_json_has_a_line_for_each() -> None:
    old, new = (json.loads(line) for line in checkpoints("list", "--json").output.splitlines())
    assert (old["version"], old["holds"]) == (OLD, False)
    assert (new["version"], new["holds"], new["rows"]) == (NEW, True, 1024)


def test_list_says_what_is_wrong_with_one_and_lists_the_others() -> None:
    (version_folder(Path("checkpoints"), OLD) / "manifest.json").write_bytes(b"{")
    old, new = listed()
    assert "not JSON" in " ".join(old)
    assert new[1] == NEW


def test_a_store_without_checkpoints_is_told() -> None:
    assert refused(2, "--store", "elsewhere", "list").endswith("there are no checkpoints")
    assert refused(2, "--model", "music", "show").endswith("there are no checkpoints")


def test_show_prints_the_manifest_of_the_one_that_holds_or_another() -> None:
    assert json.loads(checkpoints("show").output)["version"] == NEW
    assert json.loads(checkpoints("show", OLD).output)["batches"] == 1


def test_show_can_check_every_file() -> None:
    assert "files are as they should be" in checkpoints("show", "--check").stderr
    file = version_folder(Path("checkpoints"), NEW) / "training" / "state.json"
    file.write_bytes(file.read_bytes().upper())
    assert "training/state.json: sha256" in refused(2, "show", "--check")


@pytest.mark.parametrize(
    ("version", "says"), [("20200101T000000Z-00000001", "not there"), ("../x", "must be like 2024")]
)
@pytest.mark.parametrize("verb", [("show",), ("rollback", "--no-topic"), ("pin",)])
def test_a_version_that_is_none_is_one_line(verb: tuple[str, ...], version: str, says: str) -> None:
    assert says in refused(2, *verb, version)


def test_rollback_lets_the_older_one_hold() -> None:
    said = checkpoints("rollback", "--no-topic", OLD)
    assert said.output.startswith(f"{OLD} holds, by announcement 3, until")
    assert [line[0] for line in listed()] == ["*", NEW]


def test_rollback_changes_nothing_where_the_broker_does_not_answer() -> None:
    result = checkpoints("rollback", OLD, common=("--bootstrap", "127.0.0.1:1"))
    assert result.exit_code == 3
    assert result.stderr.startswith("tenuto: kafka at 127.0.0.1:1 does not answer")
    assert [line[0] for line in listed()] == [OLD, "*"]


@pytest.mark.stack
def test_rollback_tells_the_topic(stack: local.LocalStack) -> None:
    namespace = f"cli-{uuid.uuid4().hex[:8]}"
    common = ("--bootstrap", stack.bootstrap, "--namespace", namespace)
    Path("tenuto.toml").write_text("[kafka]\npartitions = 1\n")
    assert CliRunner().invoke(main, [*common, "topics"]).exit_code == 0
    result = checkpoints("rollback", OLD, common=common)
    assert result.exit_code == 0, result.output
    consumer = KafkaConsumer(bootstrap_servers=stack.bootstrap)
    tp = TopicPartition(f"{namespace}.checkpoints", 0)
    consumer.assign([tp])
    consumer.seek_to_beginning(tp)
    said: list[tuple[str, str]] = []
    while len(said) < 3:
        for record in consumer.poll(timeout_ms=200).get(tp, []):
            value = json.loads(record.value)
            said.append((value["version"], value["reason"]))
    consumer.close()
    assert said == [(OLD, "published"), (NEW, "published"), (OLD, "rollback")]


def test_a_pinned_version_is_listed_so_and_stays() -> None:
    assert checkpoints("pin", OLD).exit_code == 0
    assert listed()[0][-1] == "pinned"
    for number in range(3, 6):
        Publisher("checkpoints", MODEL, keep=1).publish(checkpoint(number))
    assert OLD in [line[0] for line in listed()]
    assert checkpoints("unpin", OLD).exit_code == 0
    assert refused(2, "unpin", OLD) == f"{OLD} is not pinned"
    Publisher("checkpoints", MODEL, keep=1).publish(checkpoint(6))
    assert OLD not in [line[0] for line in listed()]
