"""Each way in which a checkpoint can be bad is refused by its own name, and the old one stays."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import orjson
import pytest
import torch
from checkpoint_files import (
    MODEL,
    NO_WAIT,
    SPEC,
    announce_by_hand,
    rewrite_file,
    rewrite_manifest,
    version_folder,
)
from ranker_files import COLUMNS, matrix, model_checkpoint, numbered_learner

from tenuto.features.schema import Column
from tenuto.trainer.checkpoints import errors
from tenuto.trainer.checkpoints.feed import CheckpointFeed
from tenuto.trainer.checkpoints.tensors import decode_tensors, encode_tensors
from tenuto.trainer.checkpoints.writer import Publisher

OLD, NEW = model_checkpoint(1).version, model_checkpoint(2).version
WEIGHTS = "serving/model.safetensors"
Damage = Callable[[Path], None]


def manifest_of(store: Path) -> dict[str, object]:
    found = orjson.loads((version_folder(store, NEW) / "manifest.json").read_bytes())
    assert isinstance(found, dict)
    return found


def file(path: str) -> Callable[[Path], Path]:
    return lambda store: version_folder(store, NEW) / path


def flip_a_bit(store: Path) -> None:
    path = file(WEIGHTS)(store)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def cut_off(store: Path) -> None:
    path = file(WEIGHTS)(store)
    path.write_bytes(path.read_bytes()[:-1])


def change_tensor(change: Callable[[np.ndarray], np.ndarray]) -> Damage:
    def damage(store: Path) -> None:
        tensors = decode_tensors(file(WEIGHTS)(store).read_bytes(), "")
        name = next(name for name in sorted(tensors) if tensors[name].ndim == 2)
        tensors[name] = change(tensors[name])
        rewrite_file(store, NEW, WEIGHTS, encode_tensors(tensors))

    return damage


def drop_a_tensor(store: Path) -> None:
    tensors = decode_tensors(file(WEIGHTS)(store).read_bytes(), "")
    del tensors[sorted(tensors)[0]]
    rewrite_file(store, NEW, WEIGHTS, encode_tensors(tensors))


def name_file(path: str) -> Damage:
    def damage(store: Path) -> None:
        files = manifest_of(store)["files"]
        assert isinstance(files, dict)
        rewrite_manifest(store, NEW, files={**files, path: files[WEIGHTS]})

    return damage


def link_a_file(store: Path) -> None:
    path = file(WEIGHTS)(store)
    path.rename(store / "elsewhere")
    path.symlink_to(store / "elsewhere")


def link_a_folder(store: Path) -> None:
    folder = version_folder(store, NEW) / "serving"
    folder.rename(store / "elsewhere")
    folder.symlink_to(store / "elsewhere")


def pipe_instead(store: Path) -> None:
    path = file("serving/dictionary.json")(store)
    path.unlink()
    os.mkfifo(path)
    rewrite_manifest(
        store,
        NEW,
        files=manifest_of(store)["files"]
        | {"serving/dictionary.json": {"sha256": "0" * 64, "bytes": 0}},  # type: ignore[operator]
    )


def another_model(store: Path) -> None:
    Publisher(str(store), "music", retry=NO_WAIT).publish(model_checkpoint(2))
    shutil.copy(
        store / "music" / "versions" / NEW / "manifest.json",
        version_folder(store, NEW) / "manifest.json",
    )
    announce_by_hand(store, NEW)


def another_version(store: Path) -> None:
    shutil.copy(
        version_folder(store, OLD) / "manifest.json", version_folder(store, NEW) / "manifest.json"
    )
    announce_by_hand(store, NEW)


def redefined_column(store: Path) -> None:
    spec = msgspec.to_builtins(SPEC)
    spec["columns"][0]["hash"] = "another"
    rewrite_manifest(store, NEW, spec=spec)


def foreign_column(store: Path) -> None:
    spec = msgspec.to_builtins(SPEC)
    spec["columns"][0]["name"] = "item_weight"
    rewrite_manifest(store, NEW, spec=spec)


def another_size(store: Path) -> None:
    spec = msgspec.to_builtins(SPEC)
    spec["settings"]["id_size"] = 3
    rewrite_manifest(store, NEW, spec=spec)


def newer_settings(store: Path) -> None:
    spec = msgspec.to_builtins(SPEC)
    spec["settings"]["attention"] = True
    rewrite_manifest(store, NEW, spec=spec)


def truncate_manifest(store: Path) -> None:
    path = file("manifest.json")(store)
    path.write_bytes(path.read_bytes()[:100])
    announce_by_hand(store, NEW)


def truncate_latest(store: Path) -> None:
    path = store / MODEL / "latest.json"
    path.write_bytes(path.read_bytes()[:100])


def name_in_latest(version: str) -> Damage:
    def damage(store: Path) -> None:
        path = store / MODEL / "latest.json"
        path.write_bytes(orjson.dumps(orjson.loads(path.read_bytes()) | {"version": version}))

    return damage


def replace(path: str, data: bytes) -> Damage:
    return lambda store: rewrite_file(store, NEW, path, data)


BAD: list[tuple[str, Damage, type[errors.CheckpointError], str]] = [
    ("hash", flip_a_bit, errors.HashMismatchError, WEIGHTS),
    ("size", cut_off, errors.SizeMismatchError, WEIGHTS),
    ("shape", change_tensor(lambda a: a[:-1]), errors.ShapeMismatchError, "tensor "),
    ("dtype", change_tensor(lambda a: a.astype(np.float64)), errors.DTypeMismatchError, "float64"),
    ("tensor gone", drop_a_tensor, errors.ShapeMismatchError, "is missing"),
    ("file gone", lambda s: file(WEIGHTS)(s).unlink(), errors.MissingFileError, WEIGHTS),
    ("version gone", lambda s: shutil.rmtree(file("")(s)), errors.MissingFileError, NEW),
    ("path up", name_file("serving/../../x"), errors.UnsafePathError, "serving/../../x"),
    ("path absolute", name_file("/etc/passwd"), errors.UnsafePathError, "/etc/passwd"),
    ("path elsewhere", name_file("other/x"), errors.UnsafePathError, "other/x"),
    ("path hidden", name_file("serving/.x"), errors.UnsafePathError, "serving/.x"),
    ("path deeper", name_file("serving/a/b"), errors.UnsafePathError, "serving/a/b"),
    ("link", link_a_file, errors.UnsafePathError, "a link"),
    ("linked folder", link_a_folder, errors.UnsafePathError, "a link"),
    ("pipe", pipe_instead, errors.UnsafePathError, "not a file"),
    ("version up", name_in_latest("../../x"), errors.UnsafePathError, "../../x"),
    ("model", another_model, errors.ForeignModelError, "'music'"),
    ("version", another_version, errors.FormatError, OLD),
    ("column hash", redefined_column, errors.SchemaMismatchError, "item_ctr_1d"),
    ("column absent", foreign_column, errors.SchemaMismatchError, "item_weight"),
    ("spec's size", another_size, errors.UnusableModelError, "shape"),
    ("spec's fields", newer_settings, errors.FormatError, "attention"),
    (
        "format",
        lambda s: rewrite_manifest(s, NEW, format=2),
        errors.UnknownFormatError,
        "format 2: this release reads 1",
    ),
    ("manifest cut", truncate_manifest, errors.FormatError, "manifest.json: not JSON"),
    ("latest cut", truncate_latest, errors.FormatError, "latest.json: not JSON"),
    ("not ours", lambda s: rewrite_manifest(s, NEW, format=None), errors.FormatError, "no format"),
    ("no safetensors", replace(WEIGHTS, b"x"), errors.FormatError, "not safetensors"),
    (
        "a header that claims too much",
        replace(WEIGHTS, (2**40).to_bytes(8, "little") + b"{}"),
        errors.FormatError,
        "not safetensors",
    ),
    ("dictionary", replace("serving/dictionary.json", b"{"), errors.FormatError, "not JSON"),
    (
        "dictionary's content",
        replace("serving/dictionary.json", b"[]"),
        errors.UnusableModelError,
        "no ranker",
    ),
    ("description", replace("serving/model.json", b"{}"), errors.FormatError, "describe"),
    (
        "announced hash",
        lambda s: file("manifest.json")(s).write_bytes(orjson.dumps(manifest_of(s))),
        errors.HashMismatchError,
        "announced was",
    ),
]


@pytest.mark.parametrize(
    ("damage", "kind", "named"), [case[1:] for case in BAD], ids=[case[0] for case in BAD]
)
def test_a_bad_checkpoint_is_refused_by_name_and_the_old_one_stays(
    tmp_path: Path, damage: Damage, kind: type[errors.CheckpointError], named: str
) -> None:
    publisher = Publisher(str(tmp_path), MODEL, retry=NO_WAIT)
    publisher.publish(model_checkpoint(1))
    told = []
    feed = CheckpointFeed(
        str(tmp_path), model=MODEL, follow=False, columns=COLUMNS, on_refuse=told.append
    )
    assert feed.poll()
    publisher.publish(model_checkpoint(2))
    damage(tmp_path)

    assert not feed.poll()
    assert feed.version == feed.ranker.version == OLD
    assert feed.refused is not None
    assert type(feed.refused.error) is kind
    assert named in feed.refused.reason
    assert feed.ranker.score(matrix([0.1])).version == OLD
    assert not feed.poll()
    assert told == [told[0]]

    fresh = CheckpointFeed(str(tmp_path), model=MODEL, follow=False, columns=COLUMNS)
    fresh.poll()
    with pytest.raises(errors.NoRankerError, match=kind.__name__):
        _ = fresh.ranker


def test_a_checkpoint_that_comes_right_is_taken(tmp_path: Path) -> None:
    publisher = Publisher(str(tmp_path), MODEL, retry=NO_WAIT)
    publisher.publish(model_checkpoint(1))
    feed = CheckpointFeed(str(tmp_path), model=MODEL, follow=False)
    cut_off_file = version_folder(tmp_path, OLD) / WEIGHTS
    whole = cut_off_file.read_bytes()
    cut_off_file.write_bytes(b"")
    assert not feed.poll()
    assert feed.refused is not None
    cut_off_file.write_bytes(whole)
    assert feed.poll()
    assert feed.refused is None


def test_a_refused_checkpoint_is_over_when_the_old_one_holds_again(tmp_path: Path) -> None:
    publisher = Publisher(str(tmp_path), MODEL, retry=NO_WAIT)
    publisher.publish(model_checkpoint(1))
    feed = CheckpointFeed(str(tmp_path), model=MODEL, follow=False)
    feed.poll()
    publisher.publish(model_checkpoint(2))
    flip_a_bit(tmp_path)
    feed.poll()
    publisher.roll_back(OLD)
    feed.poll()
    assert (feed.version, feed.refused) == (OLD, None)


def test_columns_that_a_ranker_does_not_take_need_not_be_there(tmp_path: Path) -> None:
    Publisher(str(tmp_path), MODEL, retry=NO_WAIT).publish(model_checkpoint(1))
    only = [Column(c.name, c.hash) for c in SPEC.columns if c.role == "main"]
    feed = CheckpointFeed(str(tmp_path), model=MODEL, follow=False, columns=only)
    assert feed.poll()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(tmp_path: Path, bad: float) -> None:
    publisher = Publisher(str(tmp_path), MODEL, retry=NO_WAIT)
    publisher.publish(model_checkpoint(1))
    learner = numbered_learner(2)
    tensors = learner.serving_tensors()
    with torch.no_grad():
        tensors["ids.item"][0, 0] = bad
    publisher.publish(model_checkpoint(2, learner))
    feed = CheckpointFeed(str(tmp_path), model=MODEL, follow=False)
    # NaN sorts no slate, and nobody would be told.
    assert not feed.poll()
    assert feed.refused is not None
    assert isinstance(feed.refused.error, errors.UnusableModelError)
    assert "ids.item" in str(feed.refused.error)
