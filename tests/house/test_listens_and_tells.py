"""Who can reach a process of ours by default, and what it tells: nobody, and no secret."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis

from tenuto import local
from tenuto.features.connection import without_password
from tenuto.local.processes import free_port
from tenuto.settings import SettingsError, load
from tenuto.trainer.checkpoints.store import open_store

SECRET = "hush-Zq9-3481"
EXAMPLE = Path(__file__).parents[2] / "examples" / "serving.py"
LOOPBACK = {"0100007F", "00000000000000000000000001000000", "0000000000000000FFFF00000100007F"}
# All that a command and the libraries under it have to say.
DEBUG = """
import logging, sys
from tenuto import logs
quiet = logs.configure
def configure(log_format, level=logging.DEBUG):
    quiet(log_format, logging.DEBUG)
    for name in ("aiokafka", "kafka", "faust", "mode", "redis", "asyncio"):
        logging.getLogger(name).setLevel(logging.DEBUG)
logs.configure = configure
configure("text")
from tenuto.cli import main
main(sys.argv[1:])
"""


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in list(os.environ):
        if name.startswith("TENUTO_"):
            monkeypatch.delenv(name)


def tree(root: int) -> set[int]:
    """A process and all below it."""
    parents: dict[int, int] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            text = path.read_text()
        except OSError:
            continue
        parents[int(path.parent.name)] = int(text.rpartition(")")[2].split()[1])
    found = {root}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def listening(pids: set[int]) -> dict[int, str]:
    """Ports that these processes listen at, and the addresses, as the kernel writes them."""
    inodes = set()
    for pid in pids:
        for link in Path(f"/proc/{pid}/fd").glob("*"):
            try:
                inodes |= set(re.findall(r"socket:\[(\d+)\]", os.readlink(link)))
            except OSError:
                continue
    found = {}
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            _, here, _, state, *rest = line.split()
            if state == "0A" and rest[5] in inodes:
                address, _, port = here.partition(":")
                found[int(port, 16)] = address
    return found


@contextmanager
def running(
    *command: str, env: Mapping[str, str], log: Path, until: str
) -> Iterator[subprocess.Popen[bytes]]:
    """A command that has printed ``until``."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, *command],
            env={**os.environ, "PYTHONUNBUFFERED": "1", **env},
            stdout=output,
            stderr=output,
        )
    try:
        deadline = time.monotonic() + 60
        while until not in log.read_text(errors="replace"):
            assert process.poll() is None, log.read_text(errors="replace")
            assert time.monotonic() < deadline, log.read_text(errors="replace")
            time.sleep(0.05)
        yield process
    finally:
        process.terminate()
        process.wait(40)


@pytest.mark.stack
def test_nothing_listens_beyond_loopback_unless_told_to(tmp_path: Path) -> None:
    if not Path("/proc/net/tcp").exists():
        pytest.skip("no /proc to ask who listens")
    log, ports = tmp_path / "up", [free_port(), free_port(), free_port()]
    with running("-m", "tenuto", "up", env={}, log=log, until="^C stops it") as up:
        env = dict(re.findall(r"export (TENUTO_\w+)=(\S+)", log.read_text()))
        assert len(listening(tree(up.pid))) >= 2
        told = {"TENUTO_WORKERS__METRICS_PORT": ""}
        starts = [("worker", "features"), ("worker", "join")]
        processes = {up.pid}
        for at, start in enumerate(starts):
            more = {**env, **told, "TENUTO_WORKERS__METRICS_PORT": str(ports[at])}
            worker_log = tmp_path / start[1]
            with running("-m", "tenuto", *start, env=more, log=worker_log, until="\n") as worker:
                found = wait_for_port(worker.pid, ports[at])
                assert set(found.values()) <= LOOPBACK, (start, found)
        command = [str(EXAMPLE), "--port", str(ports[2])]
        with running(*command, env=env, log=tmp_path / "example", until="Running on") as example:
            found = wait_for_port(example.pid, ports[2])
            assert set(found.values()) <= LOOPBACK, found
        for pid in processes:
            found = listening(tree(pid))
            assert set(found.values()) <= LOOPBACK, found


def wait_for_port(pid: int, port: int) -> dict[int, str]:
    """What a process listens at, once that port is among them."""
    deadline = time.monotonic() + 60
    while True:
        found = listening(tree(pid))
        if port in found:
            return found
        assert time.monotonic() < deadline, found
        time.sleep(0.1)


def test_a_listener_for_everybody_would_be_seen() -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "http.server", "--bind", "0.0.0.0", str(port := free_port())],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        assert not set(wait_for_port(process.pid, port).values()) <= LOOPBACK
        process.kill()


HELD = {
    "TENUTO_KAFKA__SECURITY_PROTOCOL": "SASL_PLAINTEXT",
    "TENUTO_KAFKA__SASL_USERNAME": "u",
    "TENUTO_KAFKA__SASL_PASSWORD": SECRET,
    "TENUTO_REDIS__PASSWORD": SECRET,
    "TENUTO_REDIS__URL": f"redis://u:{SECRET}@127.0.0.1:1/0?password={SECRET}",
    "TENUTO_TRAINER__STORE": f"s3://key:{SECRET}@bucket/x?secret_access_key={SECRET}",
}


def said_by(*arguments: str, env: Mapping[str, str]) -> str:
    """Everything that a command prints, with every logger at debug."""
    done = subprocess.run(
        [sys.executable, "-c", DEBUG, *arguments],
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=120,
    )
    return done.stdout + done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("config",), ("config", "--json"), ("worker", "features"), ("worker", "join"),
        ("topics", "--check-only"), ("sink", "parquet"), ("train",), ("checkpoints", "list"),
        ("inspect", "item", "x"), ("dead-letters",),
    ],
    ids=" ".join,
)  # fmt: skip
def test_no_command_tells_a_secret_when_it_fails(arguments: tuple[str, ...]) -> None:
    env = {**HELD, "TENUTO_KAFKA__BOOTSTRAP": f"127.0.0.1:{free_port()}"}
    said = said_by(*arguments, env=env)
    assert said.strip()
    assert SECRET not in said


@pytest.mark.parametrize("name", sorted(HELD))
def test_no_setting_that_is_refused_tells_a_secret(name: str, tmp_path: Path) -> None:
    # Of another setting, or of the one that holds it.
    bad = [{"TENUTO_KAFKA__PARTITIONS": "x"}, {"TENUTO_KAFKA__SASL_MECHANISM": "x"}]
    bad += [{"TENUTO_REDIS__URL": f"redis://u:{SECRET}@h:port"}]
    bad += [{"TENUTO_REDIS__URL": f"redis://u:{SECRET}@[::1"}]
    bad += [{"TENUTO_REDIS__URL": f"ftp://u:{SECRET}@h"}]
    for one in bad:
        with pytest.raises(SettingsError) as refused:
            load(env={name: HELD[name], **HELD, **one})
        assert SECRET not in str(refused.value)


@pytest.mark.stack
def test_a_worker_at_work_tells_no_secret(embedded: local.LocalStack, tmp_path: Path) -> None:
    client = redis.Redis.from_url(embedded.redis_url)
    client.execute_command("ACL", "SETUSER", "hush", "on", f">{SECRET}", "~*", "&*", "+@all")
    port, log = free_port(), tmp_path / "log"
    env = {
        "TENUTO_KAFKA__BOOTSTRAP": embedded.bootstrap,
        "TENUTO_KAFKA__PARTITIONS": "1",
        "TENUTO_NAMESPACE": f"n{port}",
        "TENUTO_REDIS__URL": embedded.redis_url,
        "TENUTO_REDIS__USERNAME": "hush",
        "TENUTO_REDIS__PASSWORD": SECRET,
        "TENUTO_WORKERS__METRICS_PORT": str(port),
    }
    assert SECRET not in said_by("topics", env=env)
    with running("-c", DEBUG, "worker", "features", env=env, log=log, until="\n") as worker:
        wait_for_port(worker.pid, port)
        deadline = time.monotonic() + 30
        while not client.keys(f"*n{port}*") and time.monotonic() < deadline:
            time.sleep(0.1)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            metrics = answer.read().decode()
        for pid in tree(worker.pid):
            assert SECRET.encode() not in Path(f"/proc/{pid}/cmdline").read_bytes()
    assert client.keys(f"*n{port}*"), log.read_text()
    assert "tenuto_" in metrics
    assert SECRET not in metrics
    assert SECRET not in log.read_text()

    wrong = said_by("worker", "features", env={**env, "TENUTO_REDIS__PASSWORD": SECRET + "x"})
    assert "password" in wrong
    assert SECRET not in wrong


@pytest.mark.parametrize(
    "url",
    [
        f"s3://key:{SECRET}@bucket/x", f"redis://:{SECRET}@h/0", f"s3://b/x?token={SECRET}",
        f"gs://b?credentials={SECRET}", f"s3://u:{SECRET}/x@b", f"redis://u:{SECRET}@[::1",
        f"s3://b?aws_secret_access_key={SECRET}",
    ],
)  # fmt: skip
def test_a_url_is_shown_without_what_it_keeps(url: str) -> None:
    assert SECRET not in without_password(url)
    assert without_password(url).partition("://")[0] == url.partition("://")[0]


def test_a_store_is_named_without_its_keys() -> None:
    assert SECRET not in open_store(f"memory://key:{SECRET}@bucket/x").url
    with pytest.raises(ValueError) as refused:
        open_store(f"unknown://key:{SECRET}@bucket/x")
    assert SECRET not in str(refused.value)
