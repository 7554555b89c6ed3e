"""The command line as a person meets it: what it prints, and what it exits with."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from redis import Redis

from tenuto import local
from tenuto.cli import main
from tenuto.local.processes import accepts

APP = """
from tenuto.features import values
from tenuto.features.entities import Entity, count
from tenuto.features.events import Event, Field
from tenuto.platform import Platform

purchases = Event("purchases", fields={"amount_cents": Field(int, ge=0)})
user = Entity("user", "user_id", {"purchases": count(purchases)})
app = Platform("shop", events=[purchases], features=values.sums(user.purchases, "7d"))
"""


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    # Found where the command is run, by the command alone.
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in list(os.environ):
        if name.startswith("TENUTO_"):
            monkeypatch.delenv(name)


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """A module name that no other test has imported."""
    return f"m{abs(hash(request.node.nodeid)):x}"


def tenuto(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


def refused(code: int, *arguments: str) -> str:
    """The one line on stderr of a command that must fail with that code."""
    result = tenuto(*arguments)
    assert result.exit_code == code, result.output
    (line,) = result.stderr.splitlines()
    return line.removeprefix("tenuto: ")


def test_the_command_line_loads_neither_faust_nor_torch_nor_a_kafka_client() -> None:
    code = (
        "import sys, tenuto.cli; "
        "print([m for m in ('faust', 'torch', 'aiokafka', 'pyarrow') if m in sys.modules])"
    )
    shown = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert shown == "[]\n"


def test_config_shows_each_value_and_its_origin() -> None:
    Path("tenuto.toml").write_text("[kafka]\npartitions = 6\n")
    lines = tenuto("--redis", "redis://:hush@h:1", "config").output.splitlines()
    assert ["kafka.partitions", "6", "tenuto.toml"] in [line.split() for line in lines]
    assert ["redis.url", "'redis://:***@h:1'", "--redis"] in [line.split() for line in lines]


def test_config_as_json_has_the_same() -> None:
    shown = json.loads(tenuto("--namespace", "ns", "config", "--json").output)
    assert shown["namespace"] == {"value": "ns", "origin": "--namespace"}
    assert shown["kafka.partitions"] == {"value": 24, "origin": "default"}


def test_a_wrong_setting_is_one_line_and_exits_with_2(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TENUTO_KAFKA__PARTITIONS", "many")
    line = refused(2, "config")
    assert line.startswith("kafka.partitions ($TENUTO_KAFKA__PARTITIONS): 'many': expected")


def test_a_settings_file_that_is_not_there_exits_with_2() -> None:
    assert refused(2, "--config", "no.toml", "config").startswith("no.toml: cannot be read")


def test_a_broker_that_does_not_answer_is_named_and_exits_with_3() -> None:
    line = refused(3, "--bootstrap", "127.0.0.1:1", "topics")
    assert line.startswith("kafka at 127.0.0.1:1 does not answer")


def test_a_redis_that_does_not_answer_is_named_and_exits_with_3() -> None:
    line = refused(3, "--redis", "redis://:hush@127.0.0.1:1/0", "worker", "features")
    assert line == "redis at 127.0.0.1:1 does not answer"


def test_no_traceback_and_no_log_line_of_a_library_joins_the_error() -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "tenuto", "--bootstrap", "127.0.0.1:1", "topics"],
        capture_output=True,
        text=True,
    )
    assert (ended.returncode, ended.stdout) == (3, "")
    assert len(ended.stderr.splitlines()) == 1


def test_an_app_is_found_in_the_folder_of_the_command(module: str) -> None:
    Path(f"{module}.py").write_text(APP)
    line = refused(3, "--app", f"{module}:app", "--bootstrap", "127.0.0.1:1", "topics")
    assert line.startswith("kafka at ")


@pytest.mark.parametrize(
    ("attribute", "ends"),
    [("shop", "shop does not exist: there is app"), ("user", "user is no Platform: there is app")],
)
def test_an_app_that_is_none_is_told_what_there_is(module: str, attribute: str, ends: str) -> None:
    Path(f"{module}.py").write_text(APP)
    line = refused(2, "--app", f"{module}:{attribute}", "topics")
    assert line == f"app {module}:{attribute}: {module}.{ends}"


def test_a_module_that_does_not_exist_is_named() -> None:
    line = refused(2, "--app", "nowhere.at_all:app", "topics")
    assert line == "app nowhere.at_all:app: there is no module nowhere.at_all"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ('Event("samples")', "event 'samples': the platform has a topic of that name"),
        ('Event("purchases", fields={"v": int})', "field 'v' is reserved"),
        ('Platform("shop", events=[], features=app.features)', "'purchases' is counted but not"),
    ],
)
def test_a_wrong_declaration_is_one_line_with_its_place(
    module: str, wrong: str, message: str
) -> None:
    path = Path(f"{module}.py")
    path.write_text(f"{APP}{wrong}\n")
    line = refused(2, "--app", f"{module}:app", "topics")
    assert message in line
    assert line.endswith(f"({path.absolute()}:{APP.count(chr(10)) + 1})")


def test_an_error_of_the_apps_own_keeps_its_traceback(module: str) -> None:
    Path(f"{module}.py").write_text("int('x')\n")
    result = tenuto("--app", f"{module}:app", "topics")
    assert result.exit_code == 1
    assert isinstance(result.exception, ValueError)


def test_topics_that_forget_too_early_are_refused() -> None:
    Path("tenuto.toml").write_text("[kafka]\nretention = '7d'\n")
    line = refused(2, "topics")
    assert line.startswith("kafka.retention (tenuto.toml): '7d': must be at least ")


@pytest.mark.stack
def test_topics_creates_checks_and_finds_a_partition_count_for_life(
    embedded: local.LocalStack,
) -> None:
    common = ("--bootstrap", embedded.bootstrap, "--namespace", "cli")
    assert "does not exist" in tenuto(*common, "topics", "--check-only").stderr
    created = tenuto(*common, "topics")
    assert created.exit_code == 0
    assert "created cli.clicks" in created.output
    assert "not checked" not in created.output
    again = tenuto(*common, "topics", "--check-only")
    assert (again.exit_code, again.stderr) == (0, "")
    Path("tenuto.toml").write_text("[kafka]\npartitions = 6\n")
    other = tenuto(*common, "topics")
    assert other.exit_code == 2
    assert "cli.clicks: has 24 partitions, not 6: the count is for life" in other.stderr


@pytest.mark.stack
def test_a_topic_that_the_broker_refuses_is_one_line(kafka: local.LocalStack) -> None:
    Path("tenuto.toml").write_text("[kafka]\nreplication_factor = 3\n")
    line = refused(2, "--bootstrap", kafka.bootstrap, "--namespace", "cli", "topics")
    assert line.startswith("cli.impressions: not created: Unable to replicate")


@pytest.mark.stack
def test_a_redis_that_wants_a_password_is_a_wrong_setting(tmp_path: Path) -> None:
    with local.start("embedded", data_dir=tmp_path) as stack:
        Redis.from_url(stack.redis_url).config_set("requirepass", "hush")
        given = ("--bootstrap", stack.bootstrap, "--redis", stack.redis_url)
        line = refused(2, *given, "worker", "features")
    assert line.startswith("redis at 127.0.0.1:")
    assert line.endswith("wants another user or password: see redis.username and redis.password")


@pytest.mark.stack
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_up_prints_variables_that_lead_to_its_servers_and_stops_them(
    number: signal.Signals, tmp_path: Path
) -> None:
    up = subprocess.Popen(
        [sys.executable, "-u", "-m", "tenuto", "up", "--data-dir", str(tmp_path / "data")],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert up.stdout is not None
        variables: dict[str, str] = {}
        for line in up.stdout:
            if line.startswith("#"):
                break
            name, _, value = line.strip().removeprefix("export ").partition("=")
            variables[name] = value
        env = {**os.environ, **variables}
        checked = subprocess.run(
            [sys.executable, "-m", "tenuto", "topics", "--check-only"], env=env, check=False
        )
        assert checked.returncode == 0
        redis_url = variables["TENUTO_REDIS__URL"]
        with Redis.from_url(redis_url) as redis:
            assert redis.config_get("appendonly") == {"appendonly": "yes"}
        up.send_signal(number)
        assert up.wait(30) == 0
    finally:
        up.kill()
        up.wait()
    ports = [variables["TENUTO_KAFKA__BOOTSTRAP"].rpartition(":")[2], redis_url.split(":")[2][:5]]
    assert not any(accepts(int(port)) for port in ports)


@pytest.mark.stack
def test_up_without_a_kafka_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KAFKA_HOME", raising=False)
    line = refused(2, "up", "--stack", "kafka")
    assert line == "kafka broker: KAFKA_HOME is not set: point it at an Apache Kafka"


@pytest.mark.stack
def test_up_whose_server_dies_ends_with_3(tmp_path: Path) -> None:
    up = subprocess.Popen(
        [sys.executable, "-u", "-m", "tenuto", "up", "--data-dir", str(tmp_path / "data")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert up.stdout is not None
        url = next(line for line in up.stdout if "REDIS__URL" in line).partition("=")[2].strip()
        Redis.from_url(url).shutdown(nosave=True)
        _, errors = up.communicate(timeout=30)
    finally:
        up.kill()
        up.wait()
    assert up.returncode == 3
    assert "a server has ended" in errors
