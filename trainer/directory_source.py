"""A sink's directory of samples as a trainer reads it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

from tenuto.snapshot.chain import new_rows
from tenuto.snapshot.manifests import (
    Manifest,
    SampleFilesError,
    check_files,
    partitions_in,
    read_manifests,
)
from tenuto.snapshot.sample_directory import SampleDirectory
from tenuto.snapshot.sample_record import Interval
from tenuto.trainer.positions import Position
from tenuto.trainer.sample_source import Read


class DirectorySource:
    """What a sink has finished when it is opened.

    Rows, order and weights are those of the topic that the sink reads, as far as its files go.

    Args:
        directory: of the sink.
        columns: to read; all by default.
        positions: where to go on, by partition.

    Raises:
        SampleFilesError: a manifest or a file is missing or damaged.
    """

    def __init__(
        self,
        directory: str | Path,
        columns: Sequence[str] | None = None,
        positions: Mapping[int, Position] | None = None,
    ) -> None:
        self._files = SampleDirectory(Path(directory))
        self._columns = columns
        partitions = partitions_in(self._files.directory)
        if not partitions:
            raise SampleFilesError(f"{directory}: no manifests: not a directory of samples")
        self._reads = {p: self._read(p, (positions or {}).get(p)) for p in partitions}
        self._partitions = partitions
        self._exhausted = False

    @property
    def partitions(self) -> Sequence[int]:
        return self._partitions

    def poll(self, ahead: Collection[int]) -> list[Read]:
        # What is ahead waits for partitions whose files have all been read.
        self._exhausted = all(partition in ahead for partition in self._reads)
        found = []
        for partition in [*self._reads]:
            if partition in ahead:
                continue
            read = next(self._reads[partition], None)
            if read is None:
                del self._reads[partition]
            else:
                found.append(read)
        return found

    @property
    def exhausted(self) -> bool:
        return self._exhausted

    def lag(self) -> dict[int, int]:
        return {}

    @property
    def missed(self) -> int:
        return 0

    @property
    def gaps(self) -> int:
        return 0

    def close(self) -> None:
        self._reads.clear()

    def _read(self, partition: int, position: Position | None) -> Iterator[Read]:
        manifests = read_manifests(self._files.directory, partition)
        since = 0 if position is None else position.snapshot
        rest = [manifest for manifest in manifests if manifest.end > since]
        check_files(self._files.directory, rest)
        return self._pieces(partition, rest, since, manifests[-1:])

    def _pieces(
        self, partition: int, manifests: Sequence[Manifest], since: int, last: Sequence[Manifest]
    ) -> Iterator[Read]:
        for manifest in manifests:
            interval = Interval(manifest.start, manifest.end, manifest.arrival_ms)
            for file in manifest.files:
                for batch in self._files.read(file, self._columns):
                    try:
                        rows = new_rows(batch, interval, since)
                    except ValueError as error:
                        raise self._files.damaged(file, str(error)) from error
                    arrival_ms = batch.column("snapshot_arrival_ms")[-1].as_py()
                    yield Read(partition, rows, arrival_ms, False, 0, file.path)
        for manifest in last:
            place = f"partition {partition}"
            yield Read(partition, None, manifest.arrival_ms, manifest.is_end, 0, place)
