"""Samples: from their topic to tensors and to Parquet, and what a row takes in Kafka.

Beside the same rows as JSON lines in a topic of their own, read by the same Kafka client, parsed by
orjson and made into the same tensors and files.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet
import torch
from kafka import KafkaConsumer, TopicPartition

import tenuto
from benchmarks.deployment import Deployment, stack_kind
from benchmarks.harness import OURS, Bench, Figures
from benchmarks.world import World, json_of, make_topics, publish, snapshots
from tenuto import local
from tenuto.local import LocalStack

TITLE = "Samples: topic → tensors, topic → Parquet"
PEER = "JSON lines"
_BATCH = 4_096


def run(bench: Bench) -> None:
    """Tensors, files and bytes of both."""
    kind = stack_kind()
    log = World(bench.size(250_000, 30_000), per_s=1_000).log()
    with local.start(kind) as stack:
        ours = Deployment(stack, "small", partitions=1)
        ours.publish(log.records | {"snapshots": snapshots(log, ours.features, 1)})
        ours.end(log.last_ts_ms)
        rows = len(log.ts_ms)
        ours.join(rows)
        batches = list(
            tenuto.Samples(topic=ours.samples_topic, bootstrap=stack.bootstrap).batches()
        )
        lines = _write_lines(stack, batches)
        expected = _sums(_as_tensors(pa.Table.from_batches(batches)))
        bench.interleave({
            f"{OURS} → tensors": lambda: _timed(bench, "tensors", rows, expected, _ours(ours)),
            f"{PEER} → tensors": lambda: _timed(bench, "tensors", rows, expected, _lines(stack)),
            f"{OURS} → Parquet": lambda: _sink(bench, ours, rows),
            f"{PEER} → Parquet": lambda: _lines_to_parquet(bench, stack, rows),
        })  # fmt: skip
        size = _topic_bytes(stack, ours.samples_topic)
        bench.measure(f"{OURS}, in Kafka", {"bytes_per_row": size / rows})
        bench.measure(f"{PEER}, in Kafka", {"bytes_per_row": lines / rows})
    bench.delivers(OURS, "each row once whoever joined it; files that a kill leaves whole")
    bench.delivers(PEER, "every column of the same rows; read once, nothing promised")


# Tensors.

Tensors = dict[str, Any]


def _ours(ours: Deployment) -> Iterator[Tensors]:
    samples = tenuto.Samples(topic=ours.samples_topic, bootstrap=ours.stack.bootstrap)
    yield from samples.torch(batch_size=_BATCH)


def _lines(stack: LocalStack) -> Iterator[Tensors]:
    for table in _parsed(stack):
        yield _as_tensors(table)


def _as_tensors(table: pa.Table) -> Tensors:
    """Numbers as tensors, strings as lists."""
    found: Tensors = {}
    for name, column in zip(table.column_names, table.columns, strict=True):
        one = column.combine_chunks()
        if pa.types.is_string(one.type) or pa.types.is_null(one.type):
            found[name] = one.to_pylist()
        else:
            numbers = one.cast(pa.float64()).fill_null(float("nan"))
            found[name] = torch.from_numpy(np.array(numbers.to_numpy(zero_copy_only=False)))
    return found


def _timed(
    bench: Bench, what: str, rows: int, expected: dict[str, float], batches: Iterator[Tensors]
) -> Figures:
    began_s, found = time.perf_counter(), 0
    sums: dict[str, float] = dict.fromkeys(expected, 0.0)
    for batch in batches:
        found += len(next(iter(batch.values())))
        for name in expected:
            sums[name] += _sum(batch[name])
    took_s = time.perf_counter() - began_s
    bench.check(f"{what}: rows", found, rows)
    for name, right in expected.items():
        bench.check(f"{what}: sums of columns", abs(sums[name] - right) <= 1e-6 * abs(right), True)
    return {"rows_per_s": rows / took_s}


def _sums(tensors: Tensors) -> dict[str, float]:
    names = [name for name, one in tensors.items() if isinstance(one, torch.Tensor)]
    # Some are enough: the sums are taken while it is timed.
    return {name: _sum(tensors[name]) for name in names[:: max(1, len(names) // 5)]}


def _sum(numbers: Any) -> float:
    return float(np.nansum(numbers.numpy().astype(np.float64)))


# Parquet.


def _sink(bench: Bench, ours: Deployment, rows: int) -> Figures:
    folder = Path(tempfile.mkdtemp())
    env = os.environ | ours.env
    command = [sys.executable, "-m", "tenuto", "sink", "parquet", "--until-end"]
    began_s = time.perf_counter()
    subprocess.run([*command, "--dir", str(folder)], env=env, check=True, capture_output=True)
    took_s = time.perf_counter() - began_s
    found = sum(batch.num_rows for batch in tenuto.Samples(folder).batches(["item_id"]))
    bench.check("Parquet: rows", found, rows)
    size = sum(path.stat().st_size for path in folder.rglob("*.parquet"))
    shutil.rmtree(folder)
    return {"rows_per_s": rows / took_s, "bytes_per_row": size / rows}


def _lines_to_parquet(bench: Bench, stack: LocalStack, rows: int) -> Figures:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.parquet"
        began_s, writer, found = time.perf_counter(), None, 0
        for table in _parsed(stack):
            writer = writer or pyarrow.parquet.ParquetWriter(path, table.schema, compression="zstd")
            writer.write_table(table.cast(writer.schema))
            found += table.num_rows
        assert writer is not None
        writer.close()
        took_s = time.perf_counter() - began_s
        bench.check("Parquet: rows", found, rows)
        return {"rows_per_s": rows / took_s, "bytes_per_row": path.stat().st_size / rows}


# JSON lines: one record a row.


def _write_lines(stack: LocalStack, batches: list[pa.RecordBatch]) -> int:
    """Write every row as JSON; the bytes of their values."""
    make_topics(stack.bootstrap, 1, "lines")
    rows = [
        (row["request_ts_ms"], row["request_id"], json_of(row))
        for batch in batches
        for row in batch.to_pylist()
    ]
    publish({"lines": rows}, stack.bootstrap, 1)
    return sum(len(value) for _, _, value in rows)


def _parsed(stack: LocalStack) -> Iterator[pa.Table]:
    consumer = KafkaConsumer(bootstrap_servers=stack.bootstrap, group_id=None)
    tp = TopicPartition("lines", 0)
    consumer.assign([tp])
    consumer.seek_to_beginning(tp)
    end, waiting = consumer.end_offsets([tp])[tp], []
    while consumer.position(tp) < end:
        for records in consumer.poll(timeout_ms=500, max_records=_BATCH).values():
            waiting += [orjson.loads(record.value) for record in records]
        if len(waiting) >= _BATCH:
            yield pa.Table.from_pylist(waiting)
            waiting = []
    if waiting:
        yield pa.Table.from_pylist(waiting)
    consumer.close()


def _topic_bytes(stack: LocalStack, topic: str) -> int:
    """Bytes of the values of a topic of one partition."""
    consumer = KafkaConsumer(bootstrap_servers=stack.bootstrap, group_id=None)
    tp = TopicPartition(topic, 0)
    consumer.assign([tp])
    consumer.seek_to_beginning(tp)
    end, size = consumer.end_offsets([tp])[tp], 0
    while consumer.position(tp) < end:
        for records in consumer.poll(timeout_ms=500).values():
            size += sum(len(record.value or b"") for record in records)
    consumer.close()
    return size
