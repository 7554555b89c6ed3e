"""Publishing: what is written, announced again, kept, refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import orjson
import pytest
from checkpoint_files import (
    EVERY_MS,
    H_MS,
    MODEL,
    NO_WAIT,
    T0_MS,
    checkpoint,
    everything,
    rewrite_manifest,
    version_folder,
)

from tenuto.trainer.checkpoints.contents import Part
from tenuto.trainer.checkpoints.errors import ConflictError, MissingFileError
from tenuto.trainer.checkpoints.log import AnnouncementLog
from tenuto.trainer.checkpoints.manifest import Origin, sha256, version_name
from tenuto.trainer.checkpoints.pins import Pins
from tenuto.trainer.checkpoints.reader import CheckpointReader
from tenuto.trainer.checkpoints.store import open_store
from tenuto.trainer.checkpoints.writer import Publisher


@pytest.fixture(params=["directory", "memory"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "s") if request.param == "directory" else f"memory://{tmp_path.name}/s"


def publisher(url: str, keep: int = 5) -> Publisher:
    return Publisher(url, MODEL, keep=keep, retry=NO_WAIT)


def log_of(url: str) -> AnnouncementLog:
    return AnnouncementLog(open_store(url), MODEL)


def summary(url: str) -> list[tuple[int, str, int, str]]:
    """Sequence, batches of the version, points of the grid, reason."""
    return [
        (a.sequence, a.version[-2:], (a.front_ms - T0_MS) // EVERY_MS, a.reason)
        for a in log_of(url).since(0)
    ]


def test_a_version_is_a_function_of_front_and_batches() -> None:
    assert version_name(T0_MS, 42) == "20240101T103000Z-00000042"
    assert sorted([version_name(T0_MS, 9), version_name(T0_MS + 1_000, 10)])[0].endswith("09")


def test_all_that_was_given_is_read_again_bit_for_bit(url: str) -> None:
    given = checkpoint(3)
    publisher(url).publish(given)
    found = CheckpointReader(url, MODEL).newest()
    assert found is not None
    manifest = found.manifest
    assert manifest.version == given.version
    assert manifest.spec == given.spec
    assert manifest.learnt_ms == given.learnt_ms
    assert manifest.metrics == {"ctr": {"auc": 0.7, "ne": None}}
    assert found.serving.documents == {"dictionary": {"item": ["v3"]}}
    assert found.training.documents == {"state": {"batch": 3}}
    for part, read in ((given.serving, found.serving), (given.training, found.training)):
        for file, tensors in part.tensors.items():
            for name, array in tensors.items():
                np.testing.assert_array_equal(read.tensors[file][name], array, strict=True)


def test_the_announcement_names_the_manifest_and_when_it_could_be_known(url: str) -> None:
    said = publisher(url).publish(checkpoint(1))
    assert (said.sequence, said.reason) == (1, "published")
    assert said.available_at_ms == T0_MS + EVERY_MS + H_MS
    data = open_store(url).read(f"{MODEL}/versions/{said.version}/manifest.json")
    assert said.manifest_sha256 == sha256(data)
    assert said.manifest == orjson.loads(data)
    assert log_of(url).latest() == said


def test_the_same_checkpoint_has_the_same_bytes_wherever_it_is_made(tmp_path: Path) -> None:
    for name in ("one", "two"):
        publisher(str(tmp_path / name)).publish(checkpoint(2))
    (one, two) = (
        {path: (tmp_path / name / path).read_bytes() for path in everything(tmp_path / name)}
        for name in ("one", "two")
    )
    assert one == two


def test_publishing_again_what_is_there_does_nothing(url: str) -> None:
    publisher(url).publish(checkpoint(1))
    said = publisher(url).publish(checkpoint(1))
    assert said.sequence == 1
    assert summary(url) == [(1, "01", 1, "published")]


def test_a_version_that_is_there_with_other_weights_is_refused(url: str) -> None:
    publisher(url).publish(checkpoint(1))
    other = dataclasses.replace(checkpoint(1), serving=checkpoint(2).serving)
    with pytest.raises(ConflictError, match=r"20240101T104000Z-00000001.*weights"):
        publisher(url).publish(other)
    assert summary(url) == [(1, "01", 1, "published")]


def test_a_model_that_learns_from_other_samples_is_refused(url: str) -> None:
    publisher(url).publish(checkpoint(1))
    other = dataclasses.replace(checkpoint(2), samples=Origin("samples", "cd" * 16))
    with pytest.raises(ConflictError, match="another name"):
        publisher(url).publish(other)
    assert CheckpointReader(url, MODEL).versions() == [checkpoint(1).version]


def test_documents_that_would_not_come_back_are_refused(url: str) -> None:
    bad = Part({"model": {}}, {"state": {"auc": float("nan")}})
    with pytest.raises(ValueError, match=r"training/state.json"):
        publisher(url).publish(dataclasses.replace(checkpoint(1), training=bad))
    assert summary(url) == []


def test_a_damaged_version_is_written_anew_by_who_makes_it_again(tmp_path: Path) -> None:
    publisher(str(tmp_path)).publish(checkpoint(1))
    folder = version_folder(tmp_path, checkpoint(1).version)
    for damaged in ("serving/model.safetensors", "manifest.json"):
        (folder / damaged).write_bytes(b"half")
        publisher(str(tmp_path)).publish(checkpoint(1))
        found = CheckpointReader(str(tmp_path), MODEL).newest()
        assert found is not None
    assert summary(str(tmp_path)) == [(1, "01", 1, "published")]


def test_points_of_the_grid_without_news_say_that_the_old_one_holds(url: str) -> None:
    trainer = publisher(url)
    trainer.announce(T0_MS, H_MS)
    trainer.publish(checkpoint(1))
    trainer.announce(T0_MS + 2 * EVERY_MS, H_MS)
    assert summary(url) == [
        (1, "", 0, "unchanged"),
        (2, "01", 1, "published"),
        (3, "01", 2, "unchanged"),
    ]


def test_a_trainer_that_was_killed_says_nothing_twice(url: str) -> None:
    def run(trainer: Publisher, points: range) -> None:
        for point in points:
            if point % 2:
                trainer.publish(checkpoint(point))
            else:
                trainer.announce(T0_MS + point * EVERY_MS, H_MS)

    run(publisher(url), range(6))
    before = summary(url)
    newest = CheckpointReader(url, MODEL).newest()
    assert newest is not None
    again = publisher(url)
    again.recover(newest.manifest)
    run(again, range(3, 8))
    assert summary(url) == [*before, (7, "05", 6, "unchanged"), (8, "07", 7, "published")]


def test_the_last_short_batch_at_the_very_front_of_the_last_point_is_announced(url: str) -> None:
    trainer = publisher(url)
    trainer.publish(checkpoint(1))
    trainer.publish(checkpoint(2, front_ms=T0_MS + EVERY_MS))
    assert [line[1] for line in summary(url)] == ["01", "02"]


def test_rolling_back_is_announcing_an_older_version_until_the_next_one(url: str) -> None:
    trainer = publisher(url)
    trainer.publish(checkpoint(1))
    trainer.publish(checkpoint(2))
    said = publisher(url).roll_back(checkpoint(1).version)
    assert (said.reason, said.front_ms) == ("rollback", T0_MS + EVERY_MS)
    trainer.announce(T0_MS + 3 * EVERY_MS, H_MS)
    trainer.publish(checkpoint(4))
    assert summary(url) == [
        (1, "01", 1, "published"),
        (2, "02", 2, "published"),
        (3, "01", 1, "rollback"),
        (4, "01", 3, "unchanged"),
        (5, "04", 4, "published"),
    ]


def test_rolling_back_to_what_holds_or_is_not_there_changes_nothing(url: str) -> None:
    publisher(url).publish(checkpoint(1))
    assert publisher(url).roll_back(checkpoint(1).version).sequence == 1
    with pytest.raises(MissingFileError):
        publisher(url).roll_back(checkpoint(9).version)
    assert len(summary(url)) == 1


def test_the_newest_are_kept_and_what_holds_lately_held_or_is_pinned(url: str) -> None:
    trainer = publisher(url, keep=2)
    Pins(open_store(url), MODEL).add(checkpoint(1).version)
    for number in range(1, 6):
        trainer.publish(checkpoint(number))
    reader = CheckpointReader(url, MODEL)
    assert [v[-1] for v in reader.versions()] == ["1", "4", "5"]
    trainer.roll_back(checkpoint(1).version)
    Pins(open_store(url), MODEL).remove(checkpoint(1).version)
    for number in range(6, 8):
        trainer.announce(T0_MS + number * EVERY_MS, H_MS)
    assert [v[-1] for v in reader.versions()] == ["1", "4", "5"]
    trainer.publish(checkpoint(8))
    assert [v[-1] for v in reader.versions()] == ["1", "5", "8"]
    trainer.publish(checkpoint(9))
    assert [v[-1] for v in reader.versions()] == ["8", "9"]


def test_a_hundred_announcements_are_kept(url: str) -> None:
    trainer = publisher(url)
    for number in range(103):
        trainer.announce(T0_MS + number * EVERY_MS, H_MS)
    assert log_of(url).sequences() == list(range(4, 104))


def test_what_does_not_belong_there_is_left_alone(tmp_path: Path) -> None:
    versions = tmp_path / MODEL / "versions"
    (versions / "notes").mkdir(parents=True)
    publisher(str(tmp_path)).publish(checkpoint(1))
    assert sorted(p.name for p in versions.iterdir()) == [checkpoint(1).version, "notes"]


def test_a_damaged_version_is_passed_over_when_going_on(tmp_path: Path) -> None:
    for number in (1, 2):
        publisher(str(tmp_path)).publish(checkpoint(number))
    rewrite_manifest(tmp_path, checkpoint(2).version, weights=7)
    found = CheckpointReader(str(tmp_path), MODEL).newest()
    assert found is not None
    assert found.manifest.version == checkpoint(1).version
    assert CheckpointReader(str(tmp_path), "other").newest() is None


def test_a_point_is_announced_though_the_version_that_holds_is_gone(url: str) -> None:
    given = publisher(url)
    given.publish(checkpoint(1))
    given.publish(checkpoint(2))
    open_store(url).delete(f"{MODEL}/versions/{checkpoint(2).version}")
    again = publisher(url)
    again.recover(CheckpointReader(url, MODEL).manifest(checkpoint(1).version))
    told = again.announce(T0_MS + 3 * EVERY_MS, H_MS)
    assert (told.version, told.reason) == (checkpoint(2).version, "unchanged")
    # It is learnt again, to the same bytes.
    again.publish(checkpoint(2))
    found = CheckpointReader(url, MODEL).newest()
    assert found is not None
    assert found.manifest.version == told.version


def test_a_latest_that_was_cut_off_stops_nobody(url: str) -> None:
    store, given = open_store(url), publisher(url)
    given.publish(checkpoint(1))
    given.publish(checkpoint(2))

    def cut_off() -> None:
        store.write(f"{MODEL}/latest.json", store.read(f"{MODEL}/latest.json")[:40])

    cut_off()
    given.roll_back(checkpoint(1).version)
    cut_off()
    given.announce(T0_MS + 3 * EVERY_MS, H_MS)
    cut_off()
    given.publish(checkpoint(4))
    assert [reason for *_, reason in summary(url)] == [
        "published", "published", "rollback", "unchanged", "published"
    ]  # fmt: skip
