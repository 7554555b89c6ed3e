"""``tenuto train`` as a person types it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from video_samples import Record, end, record

from tenuto.snapshot.parquet import PartitionFiles
from tenuto.snapshot.sample_record import decode_rows
from tenuto.trainer.checkpoints.manifest import Manifest, Origin
from tenuto.trainer.checkpoints.reader import CheckpointReader


def sink(folder: Path, *records: Record) -> None:
    """What a sink adds to its folder."""
    files = PartitionFiles(folder, 0, chunk_offsets=10)
    for number, (interval, value) in enumerate(records, start=files.samples_offset or 0):
        rows = decode_rows(value) if value else None
        files.write(interval, interval.start, rows, number)
    files.close()


def train(samples: str, cwd: Path) -> Manifest:
    """The newest checkpoint's manifest, after a run over a sink's folder."""
    command = [sys.executable, "-m", "tenuto", "train", "--samples", samples]
    run = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, timeout=100)
    assert run.returncode == 0, run.stderr
    newest = CheckpointReader(str(cwd / "checkpoints"), "video").newest()
    assert newest is not None
    return newest.manifest


def test_a_model_goes_on_with_its_samples_however_their_folder_is_spelt(tmp_path: Path) -> None:
    folder = tmp_path / "samples"
    sink(folder, record(0, 0, 100))
    before = train("samples", tmp_path)
    assert before.samples == Origin(str(folder.resolve()))
    sink(folder, record(0, 100, 200), end(200))
    after = train(f"{tmp_path}/checkpoints/../samples/", tmp_path)
    assert after.samples == before.samples
    assert after.rows > before.rows > 0
