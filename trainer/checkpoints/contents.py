"""A checkpoint as the trainer gives it, and as files: the same values give the same bytes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from tenuto.trainer.checkpoints.manifest import (
    FORMAT,
    FileEntry,
    Manifest,
    Origin,
    check_name,
    sha256,
    version_name,
)
from tenuto.trainer.checkpoints.tensors import arrays_of, describe, encode_tensors, weights_hash
from tenuto.trainer.spec import ModelSpec

WEIGHTS = "model"
"""The tensors that ``Manifest.weights`` is over."""


@dataclass(frozen=True)
class Part:
    """What one folder of a checkpoint holds.

    Attributes:
        tensors: by file: ``"model"`` becomes ``model.safetensors``, and ``model.json`` that names
            its dtypes and shapes. torch's on the CPU, or numpy's.
        documents: by file: ``"state"`` becomes ``state.json``. JSON without NaN or infinities,
            which would not come back as they were.
    """

    tensors: Mapping[str, Mapping[str, Any]]
    documents: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """All of one checkpoint, before it is written; see :class:`Manifest` for what is what.

    Attributes:
        serving: what a ranker needs: tensors ``model``, document ``dictionary``.
        training: what a trainer that goes on needs beside it: tensors ``model``.
    """

    spec: ModelSpec
    front_ms: int
    horizon_ms: int
    learnt_ms: tuple[int, int] | None
    batches: int
    rows: int
    mode: str
    samples: Origin
    serving: Part
    training: Part
    positions: Mapping[str, Any] = field(default_factory=dict)
    runtime: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)

    @property
    def version(self) -> str:
        """Its name: a function of the samples."""
        return version_name(self.front_ms, self.batches)


def files_of(checkpoint: Checkpoint) -> tuple[dict[str, bytes], str]:
    """Bytes by relative path, and the hash of the weights.

    Raises:
        ValueError: a document with NaN or an infinity, or of the name of tensors.
    """
    files: dict[str, bytes] = {}
    weights = {}
    for name, part in (("serving", checkpoint.serving), ("training", checkpoint.training)):
        for stem, tensors in part.tensors.items():
            arrays = arrays_of(tensors)
            files[f"{name}/{stem}.safetensors"] = encode_tensors(arrays)
            files[f"{name}/{stem}.json"] = _json(msgspec.to_builtins(describe(arrays)))
            if stem == WEIGHTS:
                weights[name] = arrays
        for stem, document in part.documents.items():
            path = f"{name}/{stem}.json"
            if path in files:
                raise ValueError(f"{path}: is the description of tensors: name it otherwise")
            try:
                files[path] = _json(document)
            except ValueError as error:
                raise ValueError(f"{path}: {error}") from error
    return files, weights_hash(weights)


def manifest_of(
    model: str, checkpoint: Checkpoint, files: Mapping[str, bytes], weights: str
) -> Manifest:
    """The manifest of a checkpoint and its files."""
    return Manifest(
        format=FORMAT,
        model=check_name(model, "model"),
        version=checkpoint.version,
        spec=checkpoint.spec,
        front_ms=checkpoint.front_ms,
        horizon_ms=checkpoint.horizon_ms,
        learnt_ms=checkpoint.learnt_ms,
        batches=checkpoint.batches,
        rows=checkpoint.rows,
        mode=checkpoint.mode,
        positions=dict(checkpoint.positions),
        runtime=dict(checkpoint.runtime),
        samples=checkpoint.samples,
        metrics=dict(checkpoint.metrics),
        weights=weights,
        files={path: FileEntry(sha256(data), len(data)) for path, data in sorted(files.items())},
    )


def _json(value: Any) -> bytes:
    text = json.dumps(value, allow_nan=False, sort_keys=True, separators=(",", ":"))
    return text.encode() + b"\n"
