"""From what a source reads to rows in the canonical order."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence

import pyarrow as pa

from tenuto.trainer.order import Merge
from tenuto.trainer.positions import Positions
from tenuto.trainer.rows import Rows, SchemaError, missing_columns, rows_of
from tenuto.trainer.sample_source import Read, SampleSource
from tenuto.trainer.spec import ModelSpec
from tenuto.trainer.train_metrics import TrainMetrics

logger = logging.getLogger(__name__)


class Intake:
    """Reads a source, and gives rows out once their place in the order is certain.

    Args:
        source: of the samples.
        spec: of the model that they are for.
        positions: told which record each row came from.
        waiting_rows: rows of partitions that run ahead, until they are not read for a while.
        metrics: of this process.

    Attributes:
        merge: tells how far it has come.
    """

    def __init__(
        self,
        source: SampleSource,
        spec: ModelSpec,
        positions: Positions,
        waiting_rows: int,
        metrics: TrainMetrics,
    ) -> None:
        self.merge = Merge(source.partitions)
        self._source = source
        self._spec = spec
        self._positions = positions
        self._most = waiting_rows // len(source.partitions)
        self._metrics = metrics
        self._lacking: set[str] = set()

    def poll(self) -> Rows | None:
        """The rows that follow in the order, if any; waits a little for them.

        Raises:
            SchemaError: samples of other columns than the model's; where.
            OrderError, SampleTopicError, SampleFilesError: they are damaged; where.
        """
        for reads in _runs(self._source.poll(self.merge.ahead(self._most))):
            self._take(reads)
        return self.merge.close()

    @property
    def exhausted(self) -> bool:
        """Whether nothing more will come."""
        return self.merge.ended or self._source.exhausted

    def show(self) -> None:
        """Show how far it has come."""
        metrics, merge = self._metrics, self.merge
        metrics.front.set(merge.front_ms / 1000.0)
        metrics.holds_up.set(merge.holds_up)
        metrics.waiting.set(merge.waiting)
        metrics.missed.set(self._source.missed)
        metrics.gaps.set(self._source.gaps)
        for partition, lag in self._source.lag().items():
            metrics.lag.labels(partition).set(lag)

    def close(self) -> None:
        """Let go of the source."""
        self._source.close()

    def _take(self, reads: Sequence[Read]) -> None:
        """Take in reads of one partition and schema, as one: each costs half a millisecond."""
        first, last = reads[0], reads[-1]
        batches = [read.rows for read in reads if read.rows is not None and read.rows.num_rows]
        for read in reads:
            if read.rows is not None and read.rows.num_rows:
                offset = read.rows.column("snapshot_offset")[-1].as_py()
                self._positions.came(read.partition, read.record, offset)
        rows = self._rows(first.place, batches) if batches else None
        self.merge.add(first.partition, rows, last.arrival_ms, ended=last.is_end, place=first.place)

    def _rows(self, place: str, batches: Sequence[pa.RecordBatch]) -> Rows:
        batch = batches[0] if len(batches) == 1 else pa.concat_batches(batches)
        try:
            rows = rows_of(batch, self._spec)
        except SchemaError as error:
            raise SchemaError(f"{place}: {error}") from error
        for column in missing_columns(batch.schema, self._spec):
            self._metrics.missing.labels(column).inc(len(rows))
            if column not in self._lacking:
                self._lacking.add(column)
                logger.warning("%s: samples lack column %r: missing there", place, column)
        return rows


def _runs(reads: Iterable[Read]) -> Iterator[list[Read]]:
    """Reads that follow one another in one partition and have the same columns, together."""
    run: list[Read] = []
    schema: pa.Schema | None = None
    for read in reads:
        own = None if read.rows is None else read.rows.schema
        other = own is not None and schema is not None and not own.equals(schema, True)
        if run and (other or read.partition != run[0].partition):
            yield run
            run, schema = [], None
        run.append(read)
        schema = own or schema
    if run:
        yield run
