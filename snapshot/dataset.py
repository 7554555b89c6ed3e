"""``Samples``: what a sink or a joiner has written, for whoever trains on it or looks at it.

Arrow batches, one table, a polars or pandas frame, or a torch dataset; each of these libraries is
imported when it is asked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pyarrow as pa

from tenuto.snapshot.projection import table_of
from tenuto.snapshot.sample_directory import SampleDirectory

if TYPE_CHECKING:
    import pandas
    import polars

    from tenuto.snapshot.torch_samples import TorchSamples

_SCHEME = "kafka://"


class SampleSource(Protocol):
    """Where samples are read from."""

    def batches(self, columns: Sequence[str] | None) -> Iterator[pa.RecordBatch]:
        """All rows, in the source's order."""
        ...

    def sharded(self, shard: int, shards: int) -> SampleSource:
        """One of ``shards`` parts that together are the whole."""
        ...


class Samples:
    """Samples of a directory or a topic; columns are described in docs/samples.md.

    ``Samples("samples/")``, ``Samples("kafka://127.0.0.1:9092/samples")`` or
    ``Samples(topic="samples", bootstrap="127.0.0.1:9092")``. Rows come by partition, then by
    snapshot offset, each once. Every call reads anew.

    Args:
        source: a sink's directory, or ``kafka://host:port[,host:port]/topic``.
        topic, bootstrap: instead of ``source``.
        offsets: of a topic: the record to begin with, by partition; else the first.
        follow: of a topic: go on past the end present at the start, until every partition has
            its end mark. Rows of different partitions then come as they arrive.
        options: of ``kafka.KafkaConsumer``, for security.

    Raises:
        ValueError: neither a directory nor a topic is named.
    """

    def __init__(
        self,
        source: str | Path | None = None,
        *,
        topic: str | None = None,
        bootstrap: str | None = None,
        offsets: Mapping[int, int] | None = None,
        follow: bool = False,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        if isinstance(source, str) and source.startswith(_SCHEME):
            bootstrap, _, topic = source.removeprefix(_SCHEME).partition("/")
            source = None
        self._source: SampleSource
        if source is not None and topic is None:
            if offsets or follow or options:
                raise ValueError(f"{source}: offsets, follow and options are a topic's")
            self._source = SampleDirectory(Path(source))
        elif source is None and topic and bootstrap:
            from tenuto.snapshot.sample_topic import SampleTopic

            self._source = SampleTopic(
                topic, bootstrap, dict(offsets or {}), follow, dict(options or {})
            )
        else:
            raise ValueError(
                "Samples: give a directory, kafka://host:port/topic, or topic= and bootstrap="
            )

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        return self.batches()

    def batches(self, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        """Arrow batches of any size; columns may change from one to the next.

        Args:
            columns: names, in the order wanted; all by default. Where samples from before (or
                after) a feature lack one, it is null.

        Raises:
            SampleFilesError, SampleTopicError: the samples cannot be read; names the place.
            ValueError: no sample has a column of that name.
        """
        return self._source.batches(columns)

    def table(self, columns: Sequence[str] | None = None) -> pa.Table:
        """All rows in memory, as one Arrow table; null where a column was not there yet.

        Raises:
            ValueError: a column's definition changed in between; and as ``batches``.
        """
        return table_of(self.batches(columns))

    def polars(self, columns: Sequence[str] | None = None) -> polars.DataFrame:
        """All rows as a polars frame; as ``table``."""
        import polars

        return polars.from_arrow(self.table(columns))

    def pandas(self, columns: Sequence[str] | None = None) -> pandas.DataFrame:
        """All rows as a pandas frame; as ``table``. Integers with nulls become floats."""
        return self.table(columns).to_pandas()

    def torch(
        self, columns: Sequence[str] | None = None, *, batch_size: int = 1024
    ) -> TorchSamples:
        """An ``IterableDataset`` of dicts: a (rows,) tensor per column, lists for strings.

        Numbers that can be null are floating point, NaN where null: float64 for int64 columns,
        float32 for smaller ones.

        Args:
            columns: names; all by default.
            batch_size: rows; fewer at the end of the samples, where columns change, and at the
                end of each worker's share. Pass ``batch_size=None`` to the ``DataLoader``.
        """
        from tenuto.snapshot.torch_samples import TorchSamples

        return TorchSamples(self._source, columns, batch_size)
