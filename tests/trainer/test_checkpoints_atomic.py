"""Whatever instant a publisher dies at or the disk refuses: the old checkpoint, or the new one."""

from __future__ import annotations

import errno
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from checkpoint_files import MODEL, NO_WAIT, checkpoint, everything

from tenuto.trainer.checkpoints.errors import PublishError
from tenuto.trainer.checkpoints.local_store import LocalStore
from tenuto.trainer.checkpoints.log import AnnouncementLog
from tenuto.trainer.checkpoints.reader import CheckpointReader
from tenuto.trainer.checkpoints.retry import Retry
from tenuto.trainer.checkpoints.writer import Publisher

FOLDER = Path(__file__).parent


def publisher(store: Path, retry: Retry = NO_WAIT) -> Publisher:
    return Publisher(str(store), MODEL, keep=1, retry=retry)


def holds(store: Path) -> int:
    """Number of the checkpoint that a reader gets, all of its files verified."""
    latest = AnnouncementLog(LocalStore(store), MODEL).latest()
    assert latest is not None
    reader = CheckpointReader(str(store), MODEL)
    manifest = reader.manifest(latest.version, announced_sha256=latest.manifest_sha256)
    serving, training = reader.part(manifest, "serving"), reader.part(manifest, "training")
    number = training.documents["state"]["batch"]
    assert (serving.tensors["model"]["w"] == number).all()
    assert (training.tensors["model"]["adam"] == number).all()
    assert isinstance(number, int)
    return number


@pytest.fixture
def tmp_path(tmp_path: Path) -> Iterator[Path]:
    """In memory where that can be: these tests fsync many thousand times."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with two checkpoints, of which the next publish removes the first."""
    store = tmp_path_factory.mktemp("before")
    Publisher(str(store), MODEL, keep=2).publish(checkpoint(1))
    Publisher(str(store), MODEL, keep=2).publish(checkpoint(2))
    return store


def published_after(before: Path, folder: Path) -> set[str]:
    """The files there are when nothing went wrong."""
    shutil.copytree(before, folder)
    publisher(folder).publish(checkpoint(3))
    publisher(folder).publish(checkpoint(4))
    return everything(folder)


def test_a_publisher_killed_at_any_file_operation_leaves_a_whole_checkpoint(
    before: Path, tmp_path: Path
) -> None:
    script = str(FOLDER / "publish_until_killed.py")
    env = {**os.environ, "PYTHONPATH": str(FOLDER)}
    arguments = [sys.executable, script, str(before), str(tmp_path / "killed")]
    ran = subprocess.run(arguments, env=env, check=True, capture_output=True, text=True)
    killed = ran.stdout.split()
    assert {"open", "write", "fsync", "replace", "link", "mkdir", "unlink", "rmdir"} <= set(killed)
    clean = published_after(before, tmp_path / "clean")
    seen = []
    for number in range(1, len(killed) + 1):
        store = tmp_path / "killed" / str(number)
        seen.append(holds(store))
        trainer = publisher(store)
        newest = CheckpointReader(str(store), MODEL).newest()
        assert newest is not None
        trainer.recover(newest.manifest)
        assert holds(store) == int(newest.manifest.version[-2:])
        trainer.publish(checkpoint(3))
        trainer.publish(checkpoint(4))
        assert holds(store) == 4
        assert everything(store) == clean, killed[number - 1]
        said = [a.version[-1] for a in AnnouncementLog(LocalStore(store), MODEL).since(0)]
        assert said == ["1", "2", "3", "4"]
    assert seen == sorted(seen)
    assert set(seen) == {2, 3}


def test_a_version_that_is_complete_and_not_announced_is_announced_by_the_next(
    before: Path, tmp_path: Path
) -> None:
    store = tmp_path / "s"
    shutil.copytree(before, store)
    publisher(store).publish(checkpoint(3))
    (store / MODEL / "feed" / f"{3:012d}.json").unlink()
    shutil.copy(store / MODEL / "feed" / f"{2:012d}.json", store / MODEL / "latest.json")
    newest = CheckpointReader(str(store), MODEL).newest()
    assert newest is not None
    publisher(store).recover(newest.manifest)
    latest = AnnouncementLog(LocalStore(store), MODEL).latest()
    assert latest is not None
    assert (latest.sequence, latest.version) == (3, checkpoint(3).version)


class Disk:
    """Lets every operation through until it is full."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.done = 0
        self.full_from = 10**9
        self.full_until = 10**9
        for name in ("open", "write", "fsync", "replace", "link", "mkdir"):
            monkeypatch.setattr(os, name, self._watched(name))

    def _watched(self, name: str) -> object:
        operation = getattr(os, name)

        def call(*arguments: object, **options: object) -> object:
            writes = name != "open" or bool(int(str(arguments[1])) & os.O_CREAT)
            if writes:
                self.done += 1
                if self.full_from <= self.done < self.full_until:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(arguments[0]))
            return operation(*arguments, **options)

        return call


@pytest.fixture
def operations(before: Path, tmp_path: Path) -> int:
    """How many operations a publish is that can find the disk full."""
    with pytest.MonkeyPatch.context() as patch:
        shutil.copytree(before, tmp_path / "counted")
        disk = Disk(patch)
        publisher(tmp_path / "counted").publish(checkpoint(3))
        return disk.done


def test_a_disk_that_is_full_for_a_moment_is_tried_again(
    before: Path, tmp_path: Path, operations: int
) -> None:
    for number in range(1, operations + 1):
        store = tmp_path / str(number)
        shutil.copytree(before, store)
        failures: list[Exception] = []
        with pytest.MonkeyPatch.context() as patch:
            disk = Disk(patch)
            disk.full_from, disk.full_until = number, number + 1
            trainer = Publisher(
                str(store), MODEL, keep=1, retry=NO_WAIT, on_failure=failures.append
            )
            trainer.publish(checkpoint(3))
        assert len(failures) == 1
        assert holds(store) == 3
        said = AnnouncementLog(LocalStore(store), MODEL).since(0)
        assert [a.version[-1] for a in said] == ["1", "2", "3"]


def test_a_disk_that_stays_full_keeps_the_old_one_and_is_given_up(
    before: Path, tmp_path: Path, operations: int
) -> None:
    for number in range(1, operations + 1):
        store = tmp_path / str(number)
        shutil.copytree(before, store)
        waits: list[float] = []
        failures: list[Exception] = []
        with pytest.MonkeyPatch.context() as patch:
            disk = Disk(patch)
            disk.full_from = number
            trainer = Publisher(
                str(store),
                MODEL,
                keep=1,
                retry=Retry(attempts=3, wait_s=0.5, sleep=waits.append),
                on_failure=failures.append,
            )
            refused: PublishError | None = None
            try:
                trainer.publish(checkpoint(3))
            except PublishError as error:
                refused = error
        if refused is None:
            # Only the cleaning after the announcement failed.
            assert holds(store) == 3
        else:
            assert re.search("No space left.*: tried 3 times", str(refused))
            assert waits == [0.5, 1.0]
            assert len(failures) >= 3
        assert holds(store) in (2, 3)
        publisher(store).publish(checkpoint(3))
        assert holds(store) == 3


def test_a_file_that_outgrows_the_limit_of_the_process_keeps_the_old_one(
    before: Path, tmp_path: Path
) -> None:
    store = tmp_path / "s"
    shutil.copytree(before, store)
    code = """
import resource, sys
from checkpoint_files import MODEL, NO_WAIT, checkpoint
from tenuto.trainer.checkpoints.errors import PublishError
from tenuto.trainer.checkpoints.writer import Publisher
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    Publisher(sys.argv[1], MODEL, retry=NO_WAIT).publish(checkpoint(3, size=4, **{}))
    from tenuto.trainer.checkpoints.contents import Part
    import numpy as np
    big = Part({"model": {"w": np.zeros(100_000, np.float32)}}, {"dictionary": {}})
    Publisher(sys.argv[1], MODEL, retry=NO_WAIT).publish(checkpoint(4, serving=big))
except PublishError as error:
    print(error)
"""
    env = {**os.environ, "PYTHONPATH": str(FOLDER)}
    ran = subprocess.run(
        [sys.executable, "-c", code, str(store)],
        env=env,
        check=True,
        capture_output=True,
        text=True,
    )
    assert "File too large" in ran.stdout
    assert holds(store) == 3
    assert [v[-1] for v in CheckpointReader(str(store), MODEL).folders()] == ["1", "2", "3"]


def test_every_file_is_durable_before_its_name_is_and_the_name_before_what_refers_to_it(
    before: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = tmp_path / "s"
    shutil.copytree(before, store)
    done: list[tuple[str, str]] = []
    asides: list[str] = []
    paths: dict[int, str] = {}

    def relative(path: Any) -> str:
        return os.path.relpath(path, store / MODEL)

    def opened(path: Any, *arguments: Any, real: Any = os.open, **options: Any) -> Any:
        descriptor = real(path, *arguments, **options)
        paths[descriptor] = relative(path)
        return descriptor

    def synced(descriptor: int, real: Any = os.fsync) -> None:
        done.append(("fsync", paths[descriptor]))
        real(descriptor)

    def replaced(aside: Any, path: Any, real: Any = os.replace) -> None:
        asides.append(relative(aside))
        done.append(("name", relative(path)))
        real(aside, path)

    def linked(aside: Any, path: Any, real: Any = os.link) -> None:
        replaced(aside, path, real)

    operations = {"open": opened, "fsync": synced, "replace": replaced, "link": linked}
    for name, operation in operations.items():
        monkeypatch.setattr(os, name, operation)
    publisher(store).publish(checkpoint(3))
    monkeypatch.undo()
    named = [path for name, path in done if name == "name"]
    version = f"versions/{checkpoint(3).version}"
    assert named[-3:] == [f"{version}/manifest.json", f"feed/{3:012d}.json", "latest.json"]
    for aside, path in zip(asides, named, strict=True):
        at = done.index(("name", path))
        assert ("fsync", aside) in done[:at]
        assert done[at + 1] == ("fsync", os.path.dirname(path) or ".")


def test_writers_of_several_processes_never_share_a_number(tmp_path: Path) -> None:
    code = """
import sys
from checkpoint_files import EVERY_MS, MODEL, T0_MS
from tenuto.trainer.checkpoints.log import AnnouncementLog
from tenuto.trainer.checkpoints.local_store import LocalStore
from tenuto.trainer.checkpoints.manifest import FORMAT, Announcement
log = AnnouncementLog(LocalStore(sys.argv[1]), MODEL)
for number in range(20):
    log.append(lambda sequence: Announcement(
        format=FORMAT, sequence=sequence, model=MODEL, version="", front_ms=sequence,
        available_at_ms=sequence, manifest_sha256="", reason="unchanged"))
"""
    env = {**os.environ, "PYTHONPATH": str(FOLDER)}
    writers = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], env=env) for _ in range(3)
    ]
    assert [writer.wait() for writer in writers] == [0, 0, 0]
    log = AnnouncementLog(LocalStore(tmp_path), MODEL)
    assert [a.sequence for a in log.since(0)] == list(range(1, 61))
    latest = log.latest()
    assert latest is not None
    assert latest.sequence == 60
