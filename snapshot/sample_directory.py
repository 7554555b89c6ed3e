"""Samples in a sink's directory: the files that manifests name, in order, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tenuto.snapshot.manifests import (
    SampleFile,
    SampleFilesError,
    check_files,
    files_of,
    partitions_in,
    read_manifests,
)
from tenuto.snapshot.projection import missing_from, project
from tenuto.snapshot.sample_types import schema_fault

BATCH_ROWS = 65_536


@dataclass(frozen=True)
class SampleDirectory:
    """What a sink has finished when it is read, by partition, then snapshot offset.

    Args:
        directory: of the sink.
        shard, shards: read only every ``shards``-th file, from number ``shard`` on.
    """

    directory: Path
    shard: int = 0
    shards: int = 1

    def sharded(self, shard: int, shards: int) -> SampleDirectory:
        """One of ``shards`` parts that together are the whole."""
        return replace(self, shard=shard, shards=shards)

    def batches(self, columns: Sequence[str] | None) -> Iterator[pa.RecordBatch]:
        """Rows of each file in turn.

        Raises:
            SampleFilesError: a manifest or a file is missing or damaged; names it.
            ValueError: no file has a column of that name.
        """
        files = self._files()
        if columns is not None:
            self._check_columns(files, columns)
        for file in files[self.shard :: self.shards]:
            yield from self.read(file, columns)

    def read(self, file: SampleFile, columns: Sequence[str] | None) -> Iterator[pa.RecordBatch]:
        """Rows of one file.

        Raises:
            SampleFilesError: it is missing or damaged.
        """
        parquet = self._open(file)
        present = parquet.schema_arrow.names
        read = present if columns is None else [name for name in columns if name in present]
        try:
            # Without any column a batch would not know how many rows it has.
            for batch in parquet.iter_batches(BATCH_ROWS, columns=read or present[:1]):
                batch.validate(full=True)
                yield project(batch, columns)
        except (pa.ArrowException, OSError) as error:
            raise self.damaged(file, str(error)) from error

    def _files(self) -> list[SampleFile]:
        partitions = partitions_in(self.directory)
        if not partitions:
            raise SampleFilesError(
                f"{self.directory}: no manifests: not a directory of samples (or write it with "
                "`tenuto sink parquet`)"
            )
        files = []
        for partition in partitions:
            manifests = read_manifests(self.directory, partition)
            check_files(self.directory, manifests)
            files += [file for _, file in files_of(manifests)]
        return files

    def _check_columns(self, files: Sequence[SampleFile], columns: Sequence[str]) -> None:
        missing, known = set(columns), set[str]()
        for file in files:
            known |= set(self._open(file).schema_arrow.names)
            missing -= known
            if not missing:
                return
        if files:
            raise missing_from(str(self.directory), missing, known)

    def _open(self, file: SampleFile) -> pq.ParquetFile:
        try:
            parquet = pq.ParquetFile(self.directory / file.path, page_checksum_verification=True)
            fault = schema_fault(parquet.schema_arrow)
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise self.damaged(file, str(error)) from error
        if fault:
            raise self.damaged(file, fault)
        if parquet.metadata.num_rows != file.rows:
            raise self.damaged(
                file, f"{parquet.metadata.num_rows} rows, its manifest says {file.rows}"
            )
        return parquet

    def damaged(self, file: SampleFile, reason: str) -> SampleFilesError:
        """The error of a file that is not as its manifest says."""
        return SampleFilesError(f"{self.directory / file.path}: damaged: {reason}: restore it")
