"""The feed: which ranker is in force, and that every score belongs to exactly one."""

from __future__ import annotations

import math
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoint_files import EVERY_MS, H_MS, MODEL, NO_WAIT, T0_MS
from ranker_files import matrix, model_checkpoint, numbered_learner

from tenuto.trainer.checkpoints.errors import CheckpointError, MissingFileError, NoRankerError
from tenuto.trainer.checkpoints.feed import CheckpointFeed
from tenuto.trainer.checkpoints.reader import CheckpointReader, LoadedPart
from tenuto.trainer.checkpoints.writer import Publisher
from tenuto.trainer.learner import Learner
from tenuto.trainer.ranker import Ranker

VALUES = [0.0, 0.05, 0.3, float("nan")]


def publisher(store: Path, keep: int = 5) -> Publisher:
    return Publisher(str(store), MODEL, keep=keep, retry=NO_WAIT)


def still(store: Path) -> CheckpointFeed:
    return CheckpointFeed(str(store), model=MODEL, follow=False)


def torch_of(part: LoadedPart) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(array) for name, array in part.tensors["model"].items()}


def version(number: int) -> str:
    return model_checkpoint(number).version


def test_before_the_first_checkpoint_there_is_no_ranker(tmp_path: Path) -> None:
    feed = still(tmp_path)
    assert not feed.poll()
    assert (feed.version, feed.manifest, feed.refused) == ("", None, None)
    assert math.isnan(feed.age_s)
    with pytest.raises(NoRankerError, match="nothing is published"):
        _ = feed.ranker
    publisher(tmp_path).announce(T0_MS, H_MS)
    assert not feed.poll()
    assert feed.announced_through_ms == T0_MS


def test_a_ranker_and_a_learner_come_back_bit_for_bit(tmp_path: Path) -> None:
    learner = numbered_learner(3)
    publisher(tmp_path).publish(model_checkpoint(3, learner))
    feed = still(tmp_path)
    feed.poll()
    found = CheckpointReader(str(tmp_path), MODEL).newest()
    assert found is not None
    again = Learner.load(
        found.manifest.spec,
        torch_of(found.serving),
        torch_of(found.training),
        found.serving.documents["dictionary"],
        found.training.documents["learner"],
    )
    for name, tensor in learner.serving_tensors().items():
        np.testing.assert_array_equal(again.serving_tensors()[name], tensor)
    for name, tensor in learner.training_tensors().items():
        np.testing.assert_array_equal(again.training_tensors()[name], tensor)
    assert (again.state(), again.dictionary()) == (learner.state(), learner.dictionary())
    direct = Ranker.load(learner.spec, learner.serving_tensors(), learner.dictionary(), "direct")
    ours, theirs = (ranker.score(matrix(VALUES))["ctr"] for ranker in (feed.ranker, direct))
    np.testing.assert_array_equal(ours, theirs)


def test_the_newest_is_taken_and_then_whatever_is_announced(tmp_path: Path) -> None:
    trainer = publisher(tmp_path)
    for number in (1, 2):
        trainer.publish(model_checkpoint(number))
    feed = still(tmp_path)
    assert feed.poll()
    assert feed.version == version(2)
    assert not feed.poll()
    trainer.publish(model_checkpoint(3))
    assert feed.poll()
    trainer.roll_back(version(1))
    assert feed.poll()
    assert feed.version == feed.ranker.version == version(1)


def test_a_pinned_version_stays(tmp_path: Path) -> None:
    trainer = publisher(tmp_path)
    for number in (1, 2):
        trainer.publish(model_checkpoint(number))
    feed = CheckpointFeed(str(tmp_path), model=MODEL, follow=False, pin=version(1))
    assert feed.poll()
    trainer.publish(model_checkpoint(3))
    assert not feed.poll()
    assert feed.version == version(1)


def test_a_pinned_version_that_is_not_there_is_told(tmp_path: Path) -> None:
    publisher(tmp_path).publish(model_checkpoint(1))
    feed = CheckpointFeed(str(tmp_path), model=MODEL, follow=False, pin=version(9))
    feed.poll()
    assert feed.refused is not None
    assert isinstance(feed.refused.error, MissingFileError)


def test_a_ranker_that_still_holds_does_not_grow_old_but_one_rolled_back_to_does(
    tmp_path: Path,
) -> None:
    trainer = publisher(tmp_path)
    feed = still(tmp_path)

    def learnt_to() -> int:
        feed.poll()
        return round((time.time() - feed.age_s - T0_MS / 1000) * 1000 / EVERY_MS)

    trainer.publish(model_checkpoint(1))
    assert learnt_to() == 1
    trainer.announce(T0_MS + 5 * EVERY_MS, H_MS)
    assert learnt_to() == 5
    trainer.publish(model_checkpoint(6))
    trainer.roll_back(version(1))
    trainer.announce(T0_MS + 7 * EVERY_MS, H_MS)
    assert learnt_to() == 1


def test_what_held_at_a_point_of_event_time_does_not_depend_on_when_one_looks(
    tmp_path: Path,
) -> None:
    def told(feed: CheckpointFeed, point: int) -> str | None:
        found = feed.announced_at(T0_MS + point * EVERY_MS)
        return found and (found.version and found.version[-2:])

    trainer = publisher(tmp_path)
    early = still(tmp_path)
    assert told(early, 1) is None
    trainer.announce(T0_MS + EVERY_MS, H_MS)
    assert [told(early, point) for point in (0, 1, 2)] == ["", "", None]
    trainer.publish(model_checkpoint(2))
    trainer.announce(T0_MS + 3 * EVERY_MS, H_MS)
    trainer.publish(model_checkpoint(5))
    for feed in (early, still(tmp_path)):
        points = [told(feed, point) for point in range(7)]
        assert points == ["", "", "02", "02", "02", "05", None]
    found = early.announced_at(T0_MS + 4 * EVERY_MS)
    assert found is not None
    assert early.load(found).version == early.version == version(2)
    assert early.load(version(5)).version == version(5)
    with pytest.raises(MissingFileError):
        early.load(version(9))
    assert early.version == version(5)


def test_what_is_not_kept_any_longer_is_told_and_not_guessed(tmp_path: Path) -> None:
    trainer = publisher(tmp_path)
    for number in range(1, 103):
        trainer.announce(T0_MS + number * EVERY_MS, H_MS)
    with pytest.raises(CheckpointError, match="not kept any longer"):
        still(tmp_path).announced_at(T0_MS)


def test_every_score_belongs_to_exactly_one_version(tmp_path: Path) -> None:
    last = 12
    trainer = publisher(tmp_path, keep=2)
    trainer.publish(model_checkpoint(1))
    asked = matrix(VALUES)
    got: list[tuple[str, bytes]] = []
    changed = threading.Event()
    failures: list[BaseException] = []

    with CheckpointFeed(str(tmp_path), model=MODEL, every_s=0.002) as feed:

        def score() -> None:
            try:
                while not changed.is_set():
                    p = feed.ranker.score(asked)
                    got.append((p.version, p["ctr"].tobytes()))
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=score) for _ in range(3)]
        for thread in threads:
            thread.start()
        for number in range(2, last + 1):
            trainer.publish(model_checkpoint(number))
            give_up_s = time.monotonic() + 30
            while feed.version != version(number) and time.monotonic() < give_up_s:
                time.sleep(0.001)
            seen = len(got)
            while len(got) < seen + 5 and time.monotonic() < give_up_s:
                time.sleep(0.001)
        changed.set()
        for thread in threads:
            thread.join()

    assert failures == []
    scores = {one: {data for v, data in got if v == one} for one, _ in got}
    assert sorted(scores) == [version(number) for number in range(1, last + 1)]
    assert all(len(found) == 1 for found in scores.values())
    assert len(set.union(*scores.values())) == last


def test_a_forked_process_goes_on_following(tmp_path: Path) -> None:
    code = """
import os, sys, time
sys.path.insert(0, sys.argv[2])
import torch
torch.set_num_threads(1)
from ranker_files import model_checkpoint
from tenuto.trainer.checkpoints.feed import CheckpointFeed
from tenuto.trainer.checkpoints.writer import Publisher
from checkpoint_files import MODEL
trainer = Publisher(sys.argv[1], MODEL)
heard, ready = os.pipe()
feed = CheckpointFeed(sys.argv[1], model=MODEL, every_s=0.01)
child = os.fork()
if child == 0:
    for number in (1, 2):
        while feed.version != model_checkpoint(number).version:
            time.sleep(0.01)
        os.write(ready, b".")
    os._exit(0)
for number in (1, 2):
    trainer.publish(model_checkpoint(number))
    os.read(heard, 1)
print(os.waitpid(child, 0)[1])
"""
    arguments = [sys.executable, "-c", code, str(tmp_path), str(Path(__file__).parent)]
    ran = subprocess.run(arguments, capture_output=True, text=True, timeout=120)
    assert ran.stdout == "0\n", ran.stderr


def test_a_forked_process_scores_though_its_parent_had_threads_of_torch(tmp_path: Path) -> None:
    code = """
import os, signal, sys
sys.path.insert(0, sys.argv[2])
import torch
torch.set_num_threads(2)
from ranker_files import matrix
from tenuto.trainer.checkpoints.feed import CheckpointFeed
feed = CheckpointFeed(sys.argv[1], model="video", every_s=60)
# As a large model's tables do when they are loaded.
torch.zeros(4_000_000).clone()
child = os.fork()
if child == 0:
    signal.alarm(30)
    feed.ranker.score(matrix([0.05] * 40_000))
    os._exit(0)
print(os.waitpid(child, 0)[1])
"""
    publisher(tmp_path).publish(model_checkpoint(1))
    arguments = [sys.executable, "-c", code, str(tmp_path), str(Path(__file__).parent)]
    ran = subprocess.run(arguments, capture_output=True, text=True, timeout=120)
    assert ran.stdout == "0\n", ran.stderr


def test_following_a_directory_loads_nothing_of_kafka_and_torch_only_with_a_ranker(
    tmp_path: Path,
) -> None:
    publisher(tmp_path).publish(model_checkpoint(1))
    code = """
import sys
from tenuto.trainer.checkpoints.feed import CheckpointFeed
def loaded():
    heavy = ("torch", "kafka", "aiokafka", "faust", "redis", "fsspec")
    return [name for name in heavy if name in sys.modules]
print(loaded())
CheckpointFeed(sys.argv[1], model="nothing").close()
print(loaded())
feed = CheckpointFeed(sys.argv[1], model="video")
print(feed.version, loaded())
feed.close()
"""
    arguments = [sys.executable, "-c", code, str(tmp_path)]
    ran = subprocess.run(arguments, capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines() == ["[]", "[]", f"{version(1)} ['torch']"]


def test_a_store_that_was_emptied_and_filled_anew_is_followed(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        publisher(tmp_path).publish(model_checkpoint(number))
    feed = still(tmp_path)
    feed.poll()
    shutil.rmtree(tmp_path / MODEL)
    assert not feed.poll()
    assert feed.version == version(3)
    for number in (4, 5):
        publisher(tmp_path).publish(model_checkpoint(number))
        assert feed.poll()
        assert feed.version == version(number)
    assert feed.announced_through_ms == T0_MS + 5 * EVERY_MS


def test_a_store_that_does_not_answer_keeps_the_old_one(tmp_path: Path) -> None:
    trainer = publisher(tmp_path)
    trainer.publish(model_checkpoint(1))
    feed = still(tmp_path)
    feed.poll()
    latest = tmp_path / MODEL / "latest.json"
    data = latest.read_bytes()
    latest.unlink()
    latest.mkdir()
    feed.poll()
    assert feed.version == version(1)
    assert feed.refused is not None
    assert isinstance(feed.refused.error, CheckpointError | OSError)
    latest.rmdir()
    latest.write_bytes(data)
    feed.poll()
    assert feed.refused is None


def test_a_topic_alone_is_no_store() -> None:
    with pytest.raises(ValueError, match="give store= too"):
        CheckpointFeed("kafka://h:1/checkpoints", model=MODEL)


def test_a_name_that_leads_elsewhere_is_no_model() -> None:
    with pytest.raises(CheckpointError, match=r"model: '\.\./x'"):
        CheckpointFeed(os.curdir, model="../x")
