"""Checkpoints under the fuzzer: manifests, announcements, and versions that agree with them."""

from __future__ import annotations

import sys
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import orjson
from fuzz_mutations import INTEGERS, json_bytes, mutated_bytes, mutated_tree
from fuzz_target import ACCEPTED, Decoder, FindingError, Outcome, refused

from tenuto.trainer.checkpoints.contents import files_of, manifest_of
from tenuto.trainer.checkpoints.errors import CheckpointError
from tenuto.trainer.checkpoints.log import AnnouncementLog
from tenuto.trainer.checkpoints.manifest import (
    Announcement,
    decode_announcement,
    decode_manifest,
    encode,
    sha256,
)
from tenuto.trainer.checkpoints.reader import CheckpointReader

MODEL = "video"
WEIGHTS = "serving/model.safetensors"


class MemoryStore:
    """A store that says and holds what a hostile hand would put there."""

    def __init__(self, objects: dict[str, bytes]) -> None:
        self.objects = objects
        self.url = "memory"

    def read(self, path: str) -> bytes:
        if path not in self.objects:
            raise FileNotFoundError(path)
        return self.objects[path]

    def size(self, path: str) -> int | None:
        found = self.objects.get(path)
        return None if found is None else len(found)

    def names(self, folder: str) -> list[str]:
        inside = [path for path in self.objects if path.startswith(folder + "/")]
        return sorted({path.removeprefix(folder + "/").partition("/")[0] for path in inside})


def _version() -> tuple[dict[str, Any], dict[str, bytes]]:
    """A good manifest, as JSON, and its files."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "trainer"))
    from ranker_files import model_checkpoint

    checkpoint = model_checkpoint(1)
    files, weights = files_of(checkpoint)
    manifest = manifest_of(MODEL, checkpoint, files, weights)
    tree: dict[str, Any] = orjson.loads(encode(manifest))
    return tree, files


def _announcement(tree: dict[str, Any], manifest: bytes) -> dict[str, Any]:
    said = Announcement(
        format=1, sequence=3, model=MODEL, version=tree["version"], front_ms=5,
        available_at_ms=6, manifest_sha256=sha256(manifest), reason="published",
    )  # fmt: skip
    found: dict[str, Any] = msgspec.to_builtins(said)
    return found


def announcements(_: Path) -> Decoder:
    """``trainer/checkpoints/manifest.py`` and ``log.py``: what is announced, and manifests."""
    tree, _files = _version()
    good = json_bytes(tree)
    said = _announcement(tree, good)

    def make(rng: Random) -> Any:
        kind = rng.choice(["manifest", "announcement"])
        whole: Any = tree if kind == "manifest" else said
        if rng.random() < 0.85:
            whole = mutated_tree(rng, whole, json_text=True)
        value = json_bytes(whole)
        return [kind, mutated_bytes(rng, value) if rng.random() < 0.3 else value]

    def take(value: Any) -> Outcome:
        kind, data = value
        try:
            if kind == "manifest":
                manifest = decode_manifest(data, "here")
                for path in manifest.files:
                    if ".." in path or "\0" in path or "\\" in path or path.count("/") != 1:
                        raise FindingError(f"{path!r} leads out of its version")
                encode(manifest)
            else:
                decode_announcement(data, "here")
                objects = {f"{MODEL}/latest.json": data, f"{MODEL}/feed/{9:012d}.json": data}
                log = AnnouncementLog(MemoryStore(objects), MODEL)  # type: ignore[arg-type]
                log.latest()
                log.since(0)
        except CheckpointError as error:
            return refused(error)
        return ACCEPTED

    return Decoder(make, take)


def checkpoints(_: Path) -> Decoder:
    """Whole versions, through ``reader.py``, ``tensors.py`` and ``ranker_files.py``.

    Hashes and sizes agree, so that what lies behind them is reached: the spec's sizes, the
    safetensors header and the description of tensors are the hostile parts.
    """
    from tenuto.trainer.checkpoints.ranker_files import ranker_of

    tree, files = _version()
    stems = sorted(path for path in files if path.startswith("serving/"))

    def make(rng: Random) -> Any:
        changed: dict[str, bytes] = {}
        if rng.random() < 0.7:
            path = rng.choice(stems)
            changed[path] = _changed(rng, path, files[path])
        spec = tree["spec"]
        if rng.random() < 0.5:
            spec = _changed_spec(rng, spec)
        return [changed, json_bytes(spec), rng.random() < 0.95]

    def take(value: Any) -> Outcome:
        changed, spec, agrees = value
        found = {**files, **changed}
        entries = {
            path: {"sha256": sha256(data), "bytes": len(data)} for path, data in found.items()
        }
        if not agrees:
            found = {**files, WEIGHTS: b"x"}
        manifest = orjson.dumps(tree | {"files": entries}).replace(orjson.dumps(tree["spec"]), spec)
        folder = f"{MODEL}/versions/{tree['version']}"
        objects = {f"{folder}/{path}": data for path, data in found.items()}
        objects[f"{folder}/manifest.json"] = manifest
        reader = CheckpointReader(MemoryStore(objects), MODEL)  # type: ignore[arg-type]
        try:
            read = reader.manifest(tree["version"], announced_sha256=sha256(manifest))
            ranker_of(read, reader.part(read, "serving"), "here")
        except CheckpointError as error:
            return refused(error)
        if not agrees:
            raise FindingError("a file of another hash was taken")
        return ACCEPTED

    return Decoder(make, take)


def _changed(rng: Random, path: str, data: bytes) -> bytes:
    if path.endswith(".json"):
        changed = json_bytes(mutated_tree(rng, orjson.loads(data), json_text=True))
        return mutated_bytes(rng, changed) if rng.random() < 0.2 else changed
    if rng.random() < 0.3:
        return mutated_bytes(rng, data)
    size = int.from_bytes(data[:8], "little")
    header = json_bytes(mutated_tree(rng, orjson.loads(data[8 : 8 + size]), json_text=True))
    said = rng.choice([len(header)] * 6 + [2**40, 2**63, 0, len(header) + 1])
    return said.to_bytes(8, "little") + header + data[8 + size :]


def _changed_spec(rng: Random, spec: dict[str, Any]) -> Any:
    if rng.random() < 0.5:
        name = rng.choice([name for name, one in spec["settings"].items() if type(one) is int])
        number = rng.choice([*INTEGERS, 1_000, 100_000, 2**24])
        return {**spec, "settings": {**spec["settings"], name: number}}
    return mutated_tree(rng, spec, json_text=True)
