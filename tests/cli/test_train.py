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


def prove(samples: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tenuto", "checkpoints", "prove", "--samples", samples]
    return subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, check=False, timeout=100
    )


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


def test_weights_are_proven_by_their_samples_and_by_no_others(tmp_path: Path) -> None:
    sink(tmp_path / "samples", record(0, 0, 100))
    train("samples", tmp_path)
    sink(tmp_path / "samples", record(0, 100, 200), end(200))
    train("samples", tmp_path)
    proven = prove("samples", tmp_path)
    assert (proven.returncode, "bit for bit; 0 different" in proven.stdout) == (0, True)
    # The same requests, but for one that is not there.
    sink(tmp_path / "others", record(0, 1, 200), end(200))
    refuted = prove("others", tmp_path)
    assert refuted.returncode == 1
    assert "and its samples give" in refuted.stdout
    sink(tmp_path / "fewer", record(0, 0, 100))
    fewer = prove("fewer", tmp_path)
    assert fewer.returncode == 0
    assert "0 different" in fewer.stdout
    assert "0 out of their reach" not in fewer.stdout
