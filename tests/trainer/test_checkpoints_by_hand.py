"""A consumer that knows docs/checkpoints.md and nothing of this library."""

from __future__ import annotations

import hashlib
import json
import re
import struct
from pathlib import Path

import numpy as np
from checkpoint_files import MODEL, NO_WAIT
from ranker_files import model_checkpoint, numbered_learner

from tenuto.trainer.checkpoints.writer import Publisher

FILE = re.compile(r"serving/[A-Za-z0-9_][A-Za-z0-9._-]*")


def follow(store: Path) -> tuple[dict[str, list[str]], dict[str, tuple[str, list[int], bytes]]]:
    """The dictionary, and dtype, shape and bytes of each tensor, of the checkpoint that holds."""
    said = json.loads((store / MODEL / "latest.json").read_bytes())
    assert said["format"] == 1
    assert re.fullmatch(r"\d{8}T\d{6}Z-\d{8,}", said["version"])
    folder = store / MODEL / "versions" / said["version"]
    data = (folder / "manifest.json").read_bytes()
    assert hashlib.sha256(data).hexdigest() == said["manifest_sha256"]
    manifest = json.loads(data)
    assert (manifest["model"], manifest["version"]) == (MODEL, said["version"])
    files = {}
    for path, entry in manifest["files"].items():
        if path.startswith("serving/"):
            assert FILE.fullmatch(path)
            files[path] = (folder / path).read_bytes()
            assert len(files[path]) == entry["bytes"]
            assert hashlib.sha256(files[path]).hexdigest() == entry["sha256"]
    weights = files["serving/model.safetensors"]
    (length,) = struct.unpack("<Q", weights[:8])
    header = json.loads(weights[8 : 8 + length])
    tensors = {}
    for name, info in header.items():
        start, end = info["data_offsets"]
        tensors[name] = (info["dtype"], info["shape"], weights[8 + length :][start:end])
    described = json.loads(files["serving/model.json"])["tensors"]
    shapes = {name: shape for name, (_, shape, _) in tensors.items()}
    assert {name: info["shape"] for name, info in described.items()} == shapes
    return json.loads(files["serving/dictionary.json"]), tensors


def test_the_steps_of_the_docs_lead_to_the_weights(tmp_path: Path) -> None:
    learner = numbered_learner(2)
    trainer = Publisher(str(tmp_path), MODEL, retry=NO_WAIT)
    for checkpoint in (model_checkpoint(1), model_checkpoint(2, learner), model_checkpoint(3)):
        trainer.publish(checkpoint)
    trainer.roll_back(model_checkpoint(2).version)
    dictionary, tensors = follow(tmp_path)
    assert dictionary == learner.dictionary()
    for name, tensor in learner.serving_tensors().items():
        _, shape, data = tensors.pop(name)
        np.testing.assert_array_equal(np.frombuffer(data, "<f4").reshape(shape), tensor)
    assert tensors == {}
