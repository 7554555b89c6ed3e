"""Small checkpoints of plain tensors, and what tests do to the files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import orjson

from tenuto.trainer.checkpoints.contents import Checkpoint, Part
from tenuto.trainer.checkpoints.manifest import Origin, sha256
from tenuto.trainer.checkpoints.retry import Retry
from tenuto.trainer.model_settings import ModelSettings
from tenuto.trainer.spec import Head, InputColumn, ModelSpec, Transform

T0_MS = 1_704_105_000_000
EVERY_MS = 600_000
H_MS = 2_700_000
MODEL = "video"

SPEC = ModelSpec(
    columns=(
        InputColumn("item_ctr_1d", "0123456789abcdef", Transform("log", 0.01, 1.0)),
        InputColumn("item_mean_position_1d", "fedcba9876543210", Transform("log"), "position"),
    ),
    ids=("user", "query", "item"),
    heads=(Head("ctr", "clicked", None, "", 1.0, 0.1),),
    settings=ModelSettings(id_size=2),
)

NO_WAIT = Retry(sleep=lambda _: None)


def checkpoint(number: int, *, size: int = 4, **changes: Any) -> Checkpoint:
    """The ``number``-th one; every value in it is ``number``."""
    weights = np.full((size, 2), number, np.float32)
    given: dict[str, Any] = {
        "spec": SPEC,
        "front_ms": T0_MS + number * EVERY_MS,
        "horizon_ms": H_MS,
        "learnt_ms": (T0_MS, T0_MS + number * EVERY_MS - 1),
        "batches": number,
        "rows": 512 * number,
        "mode": "live",
        "samples": Origin("samples", "ab" * 16),
        "positions": {"0": number},
        "runtime": {"threads": 1},
        "metrics": {"ctr": {"auc": 0.7, "ne": float("nan")}},
        "serving": Part({"model": {"w": weights}}, {"dictionary": {"item": [f"v{number}"]}}),
        "training": Part(
            {
                "model": {"adam": weights.astype(np.float64)},
                "metrics": {"window": np.arange(number, dtype=np.int64)},
            },
            {"state": {"batch": number}},
        ),
    }
    return Checkpoint(**(given | changes))


def version_folder(store: Path, version: str) -> Path:
    return store / MODEL / "versions" / version


def rewrite_manifest(store: Path, version: str, **changes: Any) -> None:
    """Change fields of a manifest that was written, and announce it, as a foreign hand would."""
    path = version_folder(store, version) / "manifest.json"
    path.write_bytes(orjson.dumps(orjson.loads(path.read_bytes()) | changes))
    announce_by_hand(store, version)


def rewrite_file(store: Path, version: str, path: str, data: bytes) -> None:
    """Put another file in the place of one, and make manifest and announcement agree with it."""
    (version_folder(store, version) / path).write_bytes(data)
    manifest = orjson.loads((version_folder(store, version) / "manifest.json").read_bytes())
    entry = {"sha256": sha256(data), "bytes": len(data)}
    rewrite_manifest(store, version, files=manifest["files"] | {path: entry})


def announce_by_hand(store: Path, version: str) -> None:
    """Make ``latest`` name the manifest of a version as it is now."""
    latest = store / MODEL / "latest.json"
    said = orjson.loads(latest.read_bytes())
    digest = sha256((version_folder(store, version) / "manifest.json").read_bytes())
    changes = {"sequence": said["sequence"] + 1, "version": version, "manifest_sha256": digest}
    latest.write_bytes(orjson.dumps(said | changes))


def everything(store: Path) -> set[str]:
    """Paths of all files below a folder, hidden ones too."""
    return {str(p.relative_to(store)) for p in store.rglob("*") if p.is_file()}
