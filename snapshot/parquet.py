"""One partition's samples into Parquet files: a chunk at a time, done or not there.

A chunk is done when its manifest is in place; before that its files lie aside or count for
nothing, and the next start removes them and reads the chunk again. Files only: reading the
samples topic is the sink's.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

import orjson
import pyarrow as pa

from tenuto.snapshot.chunks import HOUR_MS, Chunker, Cut
from tenuto.snapshot.durable import UNFINISHED, lock, make_directory, move_durably, write_durably
from tenuto.snapshot.manifests import (
    Manifest,
    SampleFile,
    SampleFilesError,
    check_files,
    manifest_folder,
    read_manifests,
    write_manifest,
)
from tenuto.snapshot.parquet_file import ParquetFile, Written
from tenuto.snapshot.sample_record import Interval

# Snapshot offsets of a chunk, where it does not end before with its hour.
CHUNK_OFFSETS = 20_000
# How many of the last manifests a start checks: nothing but the last can be a crash's.
_CHECKED = 100
_ASIDE = "_unfinished"


class PartitionFiles:
    """A partition's files in a directory, by one process at a time.

    Args:
        directory: of the samples; made where it is missing.
        partition: of the samples topic.
        source: names the log, so that two are not mixed in one directory.
        chunk_offsets: snapshot offsets of a chunk.

    Attributes:
        position: snapshot offset that the next chunk starts at; None where there is none yet.
        arrival_ms: of the partition there.
        samples_offset: record of the samples topic to go on from; None for the first.
        ended: whether the end mark's chunk is done.

    Raises:
        SampleFilesError: the directory is not as its manifests say, holds another log, or is
            being written by another process.
    """

    def __init__(
        self,
        directory: Path,
        partition: int,
        *,
        source: str = "",
        chunk_offsets: int = CHUNK_OFFSETS,
    ) -> None:
        self.position: int | None = None
        self.arrival_ms = 0
        self.samples_offset: int | None = None
        self.ended = False
        self._directory = directory
        self._partition = partition
        self._chunk_offsets = chunk_offsets
        self._chunker: Chunker | None = None
        self._open: ParquetFile | None = None
        self._hour = ""
        self._files: list[tuple[Path, str, Written]] = []
        self._lock = self._claim()
        try:
            self._check_source(source)
            manifests = read_manifests(directory, partition, last=_CHECKED)
            check_files(directory, manifests)
        except BaseException:
            self._lock.close()
            raise
        if manifests:
            last = manifests[-1]
            self.position, self.arrival_ms = last.end, last.arrival_ms
            self.samples_offset, self.ended = last.samples_offset, last.is_end
        self._remove_leftovers()

    def write(
        self, interval: Interval, since: int, rows: pa.RecordBatch | None, samples_offset: int
    ) -> list[Manifest]:
        """Take in what one samples record adds, and finish the chunks that end in it.

        After an error the object is of no use: what is not done is read again by the next one.

        Args:
            interval: of the record.
            since: snapshot offset from which it adds something.
            rows: those of its rows that were not taken in before, if any.
            samples_offset: of the record.

        Raises:
            OSError: the disk did not take it.
        """
        if self._chunker is None:
            start = since if self.position is None else self.position
            self._chunker = Chunker(start, self._chunk_offsets)
        done = []
        steps = self._chunker.take(rows, interval.end, interval.arrival_ms, is_end=interval.is_end)
        for step in steps:
            if isinstance(step, Cut):
                # The record at hand reaches beyond the cut: the next chunk begins in it.
                done.append(self._finish(step, samples_offset + step.is_end))
            else:
                self._add(step, self._chunker.start)
        return done

    @property
    def waiting_bytes(self) -> int:
        """Bytes of the rows that are in memory and not in a file."""
        return 0 if self._open is None else self._open.waiting_bytes

    def close(self) -> None:
        """Discard the unfinished chunk, and let others write."""
        if self._open is not None:
            self._open.discard()
            self._open = None
        for path, _, _ in self._files:
            path.unlink(missing_ok=True)
        self._files.clear()
        self._lock.close()

    def _add(self, rows: pa.RecordBatch, start: int) -> None:
        if self._open is not None and not self._open.schema.equals(rows.schema, True):
            self._finish_file()
        if self._open is None:
            if self._files:
                start = rows.column("snapshot_offset")[0].as_py()
            else:
                self._hour = _hour_folder(rows.column("snapshot_arrival_ms")[0].as_py())
            name = f"p{self._partition}-{start:020d}.parquet"
            self._open = ParquetFile(self._directory / _ASIDE / (name + UNFINISHED), rows.schema)
        self._open.add(rows)

    def _finish_file(self) -> None:
        if self._open is None:
            return
        path = self._open.path
        place = f"{self._hour}/{path.name.removesuffix(UNFINISHED)}"
        self._files.append((path, place, self._open.finish()))
        self._open = None

    def _finish(self, cut: Cut, samples_offset: int) -> Manifest:
        self._finish_file()
        files = [SampleFile(place, *written) for _, place, written in self._files]
        for path, place, _ in self._files:
            move_durably(path, self._directory / place)
        manifest = Manifest(
            self._partition,
            cut.start,
            cut.end,
            cut.arrival_ms,
            samples_offset,
            cut.is_end,
            sum(file.rows for file in files),
            files,
        )
        write_manifest(self._directory, manifest)
        self._files.clear()
        self.position, self.arrival_ms = cut.end, cut.arrival_ms
        self.samples_offset, self.ended = samples_offset, cut.is_end
        return manifest

    def _claim(self) -> IO[bytes]:
        folder = manifest_folder(self._directory, self._partition)
        if not folder.exists() and (path := next(self._data_files(), None)) is not None:
            raise SampleFilesError(
                f"{path}: no manifest names it, and there are none: choose an empty directory"
            )
        make_directory(folder)
        make_directory(self._directory / _ASIDE)
        try:
            return lock(folder / "lock")
        except BlockingIOError as error:
            raise SampleFilesError(
                f"{folder}: another process writes this partition: stop it, or choose another "
                "directory"
            ) from error

    def _check_source(self, source: str) -> None:
        path = manifest_folder(self._directory, self._partition) / "source.json"
        if not path.exists():
            write_durably(path, orjson.dumps({"source": source}))
        found = orjson.loads(path.read_bytes())["source"]
        if found != source:
            raise SampleFilesError(
                f"{path}: the directory holds samples of {found!r}, not of {source!r}: choose an "
                "empty one"
            )

    def _remove_leftovers(self) -> None:
        """Remove what no manifest names: the files of a chunk that was not finished."""
        next_start = self.position or 0
        for path in self._data_files():
            if int(path.stem.split("-")[1]) >= next_start:
                path.unlink()
        for path in (self._directory / _ASIDE).glob(f"p{self._partition}-*{UNFINISHED}"):
            path.unlink()
        folder = manifest_folder(self._directory, self._partition)
        for path in folder.glob(f"*{UNFINISHED}"):
            path.unlink()

    def _data_files(self) -> Iterator[Path]:
        digits = "[0-9]" * 20
        return self._directory.glob(f"day=*/hour=*/p{self._partition}-{digits}.parquet")


def _hour_folder(arrival_ms: int) -> str:
    hour = datetime.fromtimestamp(arrival_ms // HOUR_MS * HOUR_MS // 1000, UTC)
    return hour.strftime("day=%Y-%m-%d/hour=%H")
