"""A checkpoint that claims to be giant is refused before anything of that size is made."""

from __future__ import annotations

import resource
from pathlib import Path
from typing import Any

import msgspec
import orjson
import pytest
from checkpoint_files import MODEL, NO_WAIT, SPEC, rewrite_file, rewrite_manifest, version_folder
from ranker_files import COLUMNS, model_checkpoint

from tenuto.trainer.checkpoints import errors, manifest, reader
from tenuto.trainer.checkpoints.feed import CheckpointFeed
from tenuto.trainer.checkpoints.writer import Publisher

OLD, NEW = model_checkpoint(1).version, model_checkpoint(2).version
WEIGHTS = "serving/model.safetensors"
LARGE = 100 * 2**20


def feed_of(folder: Path) -> CheckpointFeed:
    """A feed that has the old version, while a newer one is announced."""
    publisher = Publisher(str(folder), MODEL, retry=NO_WAIT)
    publisher.publish(model_checkpoint(1))
    feed = CheckpointFeed(str(folder), model=MODEL, follow=False, columns=COLUMNS)
    assert feed.poll()
    publisher.publish(model_checkpoint(2))
    return feed


def refused(feed: CheckpointFeed) -> Exception:
    """Why the newer one is not taken; nothing large was allocated for it."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert not feed.poll()
    grown = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    assert grown < LARGE
    assert feed.version == OLD
    assert feed.refused is not None
    return feed.refused.error


SIZES = [
    "experts", "expert_hidden", "expert_size", "tower_size", "bucket_size", "buckets",
    "positions", "position_size", "id_size",
]  # fmt: skip


@pytest.mark.parametrize("name", SIZES)
def test_a_size_in_the_spec_that_no_tensor_has(tmp_path: Path, name: str) -> None:
    feed = feed_of(tmp_path)
    spec: dict[str, Any] = msgspec.to_builtins(SPEC)
    spec["settings"][name] = 2**21
    rewrite_manifest(tmp_path, NEW, spec=spec)
    error = refused(feed)
    assert type(error) is errors.UnusableModelError
    assert "must be" in str(error)


@pytest.mark.parametrize("claim", [2**40, 2**62, reader.MAX_FILE_BYTES + 1])
def test_a_file_that_is_as_long_as_its_manifest_says_and_too_long(
    tmp_path: Path, claim: int
) -> None:
    feed = feed_of(tmp_path)
    path = version_folder(tmp_path, NEW) / WEIGHTS
    found = orjson.loads((path.parents[1] / "manifest.json").read_bytes())
    files = found["files"] | {WEIGHTS: {"sha256": "0" * 64, "bytes": claim}}
    rewrite_manifest(tmp_path, NEW, files=files)
    if claim <= 2**40:
        # Sparse: it costs whoever made it nothing.
        with path.open("r+b") as file:
            file.truncate(claim)
    error = refused(feed)
    assert type(error) is errors.SizeMismatchError
    assert WEIGHTS in str(error)


@pytest.mark.parametrize("name", ["manifest.json", "latest.json"])
def test_a_manifest_or_announcement_of_a_terabyte(tmp_path: Path, name: str) -> None:
    feed = feed_of(tmp_path)
    latest = tmp_path / MODEL / name
    path = latest if name == "latest.json" else version_folder(tmp_path, NEW) / name
    with path.open("r+b") as file:
        file.truncate(2**40)
    error = refused(feed)
    assert type(error) is errors.SizeMismatchError
    assert name in str(error)


def safetensors(header: dict[str, Any], data: bytes = b"") -> bytes:
    text = orjson.dumps(header)
    return len(text).to_bytes(8, "little") + text + data


@pytest.mark.parametrize(
    "header",
    [
        {"w": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}},
        {"w": {"dtype": "F32", "shape": [2**62, 4], "data_offsets": [0, 0]}},
        {"w": {"dtype": "F32", "shape": [0, 2**62], "data_offsets": [0, 0]}},
        {"w": {"dtype": "F32", "shape": [1], "data_offsets": [2**63, 4]}},
        {"w": {"dtype": "O", "shape": [1], "data_offsets": [0, 8]}},
    ],
    ids=["data", "product", "empty", "offset", "object"],
)
def test_a_header_of_tensors_that_claims_what_is_not_there(
    tmp_path: Path, header: dict[str, Any]
) -> None:
    feed = feed_of(tmp_path)
    rewrite_file(tmp_path, NEW, WEIGHTS, safetensors(header))
    assert isinstance(refused(feed), errors.CheckpointError)


@pytest.mark.parametrize("shape", [[2**62], [2**40, 2**40], [-1]])
def test_a_description_that_claims_what_is_not_there(tmp_path: Path, shape: list[int]) -> None:
    feed = feed_of(tmp_path)
    path = version_folder(tmp_path, NEW) / "serving/model.json"
    described = orjson.loads(path.read_bytes())
    name = sorted(described["tensors"])[0]
    described["tensors"][name]["shape"] = shape
    rewrite_file(tmp_path, NEW, "serving/model.json", orjson.dumps(described))
    assert isinstance(refused(feed), errors.ShapeMismatchError)


@pytest.mark.parametrize("name", ["serving\\x", "serving/a\0b", "serving/a\\b", "serving/", "x"])
def test_names_that_are_no_files_of_a_version(tmp_path: Path, name: str) -> None:
    feed = feed_of(tmp_path)
    path = version_folder(tmp_path, NEW) / "manifest.json"
    files = orjson.loads(path.read_bytes())["files"]
    rewrite_manifest(tmp_path, NEW, files=files | {name: files[WEIGHTS]})
    assert type(refused(feed)) is errors.UnsafePathError


def test_a_file_in_the_place_of_a_folder_is_a_missing_file(tmp_path: Path) -> None:
    feed = feed_of(tmp_path)
    folder = version_folder(tmp_path, NEW) / "serving"
    folder.rename(tmp_path / "elsewhere")
    folder.write_bytes(b"")
    assert isinstance(refused(feed), errors.MissingFileError | OSError)


def test_deep_json_is_refused() -> None:
    deep = b'{"format":1,"positions":' + b'{"a":' * 900 + b"1" + b"}" * 901
    half = deep.replace(b'{"a":' * 900, b'{"a":' * 260)
    for data in (deep, half, b"[" * 10_000, b'{"a":' * 10_000):
        with pytest.raises(errors.FormatError):
            manifest.decode_manifest(data, "here")
