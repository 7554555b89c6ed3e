"""What a sink's directory says: the files that manifests name, with the hashes that they name.

The manifests are read as plain JSON, after docs/samples.md.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tenuto.snapshot.audit.findings import Findings
from tenuto.snapshot.audit.rows import SampleRows

CHECK = "files"
_BATCH_ROWS = 1_024


@dataclass
class FileRows:
    """The rows of a directory.

    Attributes:
        covered: by partition, snapshot offsets ``[from, to)`` that its manifests stand for.
        ended: partitions whose end mark a manifest has.
    """

    rows: SampleRows = field(default_factory=SampleRows)
    covered: dict[int, tuple[int, int]] = field(default_factory=dict)
    ended: set[int] = field(default_factory=set)


def read_directory(directory: Path, findings: Findings) -> FileRows:
    """Read a sink's directory; what is missing or changed is a finding."""
    read = FileRows()
    for folder in sorted((directory / "_manifests").glob("p*")):
        if folder.name[1:].isdigit():
            _read_partition(directory, int(folder.name[1:]), folder, read, findings)
    if not read.covered:
        findings.add("missing", CHECK, str(directory), "has no manifests")
    return read


def _read_partition(
    directory: Path, partition: int, folder: Path, read: FileRows, findings: Findings
) -> None:
    first: int | None = None
    reached = 0
    for path in sorted(folder.glob("[0-9]*.json")):
        try:
            manifest: dict[str, Any] = json.loads(path.read_bytes())
            start, end, files = int(manifest["from"]), int(manifest["to"]), manifest["files"]
            if (int(manifest["partition"]), start) != (partition, int(path.stem)) or end < start:
                raise ValueError(f"of p{manifest['partition']} [{start}, {end})")
            ended = bool(manifest["is_end"])
        except (KeyError, TypeError, ValueError) as error:
            findings.add("mismatching", CHECK, str(path), f"damaged: {error!r}")
            continue
        if first is not None and start != reached:
            text = f"the manifest of snapshot offsets [{reached}, {start}) is not there"
            findings.add("missing", CHECK, str(path), text)
        first, reached = (start if first is None else first), end
        if ended:
            read.ended.add(partition)
        for file in files:
            _read_file(directory, file, (partition, start, end), read, findings)
    if first is not None:
        read.covered[partition] = (first, reached)


def _read_file(
    directory: Path,
    file: dict[str, Any],
    chunk: tuple[int, int, int],
    read: FileRows,
    findings: Findings,
) -> None:
    path = directory / str(file["path"])
    if not path.is_relative_to(directory) or ".." in path.parts:
        findings.add("mismatching", CHECK, str(path), "lies outside of its directory")
        return
    try:
        with path.open("rb") as opened:
            digest = hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError as error:
        findings.add("missing", CHECK, str(path), f"{error.strerror}, though a manifest names it")
        return
    if digest != file["sha256"]:
        text = f"sha256 {digest}: its manifest says {file['sha256']}"
        findings.add("mismatching", CHECK, str(path), text)
    partition, start, end = chunk
    count = 0
    try:
        with pq.ParquetFile(path) as parquet:
            for batch in parquet.iter_batches(_BATCH_ROWS):
                keys = read.rows.add(batch)
                count += len(keys)
                strays = [key for key in keys if key[0] != partition or not start <= key[1] < end]
                if strays:
                    text = f"snapshots[{strays[0][0]}]@{strays[0][1]}: not of its chunk"
                    findings.add("extra", CHECK, str(path), text)
    except (pa.ArrowException, OSError, KeyError) as error:
        findings.add("mismatching", CHECK, str(path), f"damaged: {error}")
        return
    if count != file["rows"]:
        text = f"{count} rows: its manifest says {file['rows']}"
        findings.add("mismatching", CHECK, str(path), text)
