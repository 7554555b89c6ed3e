"""A recorded log on disk: one Parquet file per topic, and ``log.json`` that names them.

It holds every byte of the records, so that a log can be audited anywhere and at any time.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tenuto.snapshot.audit.log import PartitionLog, RawRecord, RecordedLog, TopicLog

VERSION = 1
_INDEX = "log.json"
_BATCH = 8_192

_SCHEMA = pa.schema(
    [
        pa.field("partition", pa.int32(), False),
        pa.field("offset", pa.int64(), False),
        pa.field("timestamp_ms", pa.int64(), False),
        pa.field("key", pa.binary()),
        pa.field("value", pa.binary()),
        pa.field(
            "headers",
            pa.list_(pa.struct([pa.field("name", pa.string()), pa.field("value", pa.binary())])),
            False,
        ),
    ]
)


class RecordingError(RuntimeError):
    """A directory that holds no recording, or a damaged one; names the file."""


def recording_order(events: Iterable[str], sample_topics: Iterable[str]) -> list[str]:
    """Topics, without the namespace, in the order in which a running platform is recorded.

    What a record was made from is read after it: the snapshots of the samples, the origins of the
    dead letters, the events that a snapshot's positions and a row's labels come from. A refused
    snapshot's letter is older than the samples that reach past it, so it is read after these.
    """
    return [*sample_topics, "snapshots", "dead-letters", *events]


def write_recording(log: RecordedLog, directory: Path) -> None:
    """Write a log to a new directory, which is there as a whole or not at all.

    Raises:
        RecordingError: there is something already.
        OSError: the disk does not take it.
    """
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise RecordingError(f"{directory}: there is something already: choose an empty directory")
    aside = directory.with_name(directory.name + ".unfinished")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    topics = {name: _write_topic(topic, aside, name) for name, topic in log.topics.items()}
    index = {"v": VERSION, "partitions": log.partitions, "topics": topics}
    with (aside / _INDEX).open("w") as file:
        json.dump(index, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    _sync(aside)
    aside.replace(directory)
    _sync(directory.parent)


def read_recording(directory: Path) -> RecordedLog:
    """The log in a directory, whose files are as they were written.

    Raises:
        RecordingError: something is missing, damaged, or of another version.
    """
    path = directory / _INDEX
    try:
        index = json.loads(path.read_bytes())
    except OSError as error:
        raise RecordingError(f"{path}: {error.strerror}: not a recorded log") from error
    except ValueError as error:
        raise RecordingError(f"{path}: damaged: {error}") from error
    try:
        if index["v"] != VERSION:
            raise RecordingError(f"{path}: v: {index['v']}: this release reads version {VERSION}")
        topics = {
            name: _read_topic(directory, path, name, told) for name, told in index["topics"].items()
        }
        return RecordedLog(topics, int(index["partitions"]))
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise RecordingError(f"{path}: damaged: {error!r}") from error


def _write_topic(topic: TopicLog, folder: Path, name: str) -> dict[str, Any]:
    path = folder / f"{name}.parquet"
    with pq.ParquetWriter(path, _SCHEMA, compression="zstd") as writer:
        for number, partition in enumerate(topic.partitions):
            for first in range(0, len(partition.records), _BATCH):
                writer.write_batch(_batch(number, partition.records[first : first + _BATCH]))
    _sync(path)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {
        "incarnation": topic.incarnation.hex(),
        "sha256": digest,
        "partitions": [{"start": part.start, "end": part.end} for part in topic.partitions],
    }


def _batch(partition: int, records: Iterable[RawRecord]) -> pa.RecordBatch:
    rows = [
        {
            "partition": partition,
            "offset": record.offset,
            "timestamp_ms": record.timestamp_ms,
            "key": record.key,
            "value": record.value,
            "headers": [{"name": name, "value": value} for name, value in record.headers],
        }
        for record in records
    ]
    return pa.RecordBatch.from_pylist(rows, schema=_SCHEMA)


def _read_topic(directory: Path, index: Path, name: str, told: Mapping[str, Any]) -> TopicLog:
    if Path(name).name != name or name.startswith("."):
        raise RecordingError(f"{index}: topic {name!r}: not a topic's name")
    path = directory / f"{name}.parquet"
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise RecordingError(f"{path}: {error.strerror}, though {index} names it") from error
    if digest != told["sha256"]:
        raise RecordingError(f"{path}: sha256 {digest}: {index} says {told['sha256']}")
    records: list[list[RawRecord]] = [[] for _ in told["partitions"]]
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(_BATCH):
            for row in batch.to_pylist():
                headers = tuple((header["name"], header["value"]) for header in row["headers"])
                record = RawRecord(
                    row["offset"], row["timestamp_ms"], row["key"], row["value"], headers
                )
                records[row["partition"]].append(record)
    parts = [
        PartitionLog(int(part["start"]), int(part["end"]), found)
        for part, found in zip(told["partitions"], records, strict=True)
    ]
    return TopicLog(bytes.fromhex(told["incarnation"]), parts)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
