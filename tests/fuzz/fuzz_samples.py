"""Samples under the fuzzer: records of the topic, manifests and Parquet files of the sink."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
from fuzz_mutations import INTEGERS, TEXTS, json_bytes, mutated_bytes, mutated_tree
from fuzz_target import ACCEPTED, Decoder, FindingError, Outcome, refused

from tenuto.presets.video import app
from tenuto.snapshot.join import label_schema
from tenuto.snapshot.manifests import SampleFilesError, check_files, read_manifests
from tenuto.snapshot.sample_directory import SampleDirectory
from tenuto.snapshot.sample_partition import SamplePartition, SampleTopicError
from tenuto.snapshot.sample_record import Interval, encode_rows
from tenuto.snapshot.samples import HASH_METADATA, sample_schema
from tenuto.trainer.model_settings import ModelSettings
from tenuto.trainer.rows import SchemaError, rows_of
from tenuto.trainer.spec import ModelSpec

SPEC: ModelSpec = app.model_spec(ModelSettings())
ODD_TYPES = [
    pa.null(), pa.float32(), pa.int8(), pa.uint64(), pa.string(), pa.binary(), pa.bool_(),
    pa.list_(pa.int64()), pa.struct([("a", pa.int32())]), pa.dictionary(pa.int32(), pa.string()),
    pa.large_string(), pa.decimal128(5), pa.timestamp("ns"), pa.float16(), pa.binary(3),
    pa.map_(pa.string(), pa.int32()), pa.list_(pa.float32(), 2), pa.string_view(),
]  # fmt: skip


@dataclass
class Record:
    """As kafka-python gives it."""

    offset: int
    headers: list[tuple[str, bytes]]
    value: bytes | None


def sample_rows(first: int, n: int) -> pa.RecordBatch:
    """Good rows of the preset, of snapshots ``first`` and on."""
    columns = [(column.name, column.hash) for column in SPEC.columns]
    schema = sample_schema(columns, app.scores, app.sample_stream())
    labels = set(label_schema(app.sample_stream()).names)
    arrays = []
    for field in schema:
        if field.name == "snapshot_offset":
            values: Any = np.arange(first, first + n, dtype=np.int64)
        elif pa.types.is_string(field.type):
            values = [f"{field.name}{i}" for i in range(n)]
        elif field.name in labels and field.nullable:
            values = [None] * n
        else:
            values = [1] * n
        arrays.append(pa.array(values, field.type))
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def odd_rows(rng: Random, rows: pa.RecordBatch) -> pa.RecordBatch:
    """Rows with some columns of another type, name or definition, missing, or twice."""
    fields, arrays = list(rows.schema), list(rows.columns)
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(fields))
        match rng.randrange(6):
            case 0:
                del fields[at], arrays[at]
            case 1:
                fields.append(fields[at])
                arrays.append(arrays[at])
            case 2:
                fields[at] = fields[at].with_name(rng.choice(TEXTS)[:300])
            case 3:
                fields[at] = fields[at].with_metadata({HASH_METADATA: rng.randbytes(4)})
            case 4:
                kind = rng.choice(ODD_TYPES)
                fields[at] = pa.field(fields[at].name, kind)
                arrays[at] = pa.nulls(rows.num_rows, kind)
            case _ if pa.types.is_integer(fields[at].type):
                numbers = [rng.choice(INTEGERS) % 100 for _ in range(rows.num_rows)]
                arrays[at] = pa.array(numbers, fields[at].type)
    return pa.RecordBatch.from_arrays(arrays, schema=pa.schema(fields))


def topic_records(_: Path) -> Decoder:
    """``snapshot/sample_record.py``, ``chain.py`` and ``sample_partition.py``; then ``rows_of``.

    Of a partition, because a hostile record must not hide a good one: what lies before it is
    read, and what follows is read too where the record is no link of the chain.
    """
    good = encode_rows(sample_rows(10, 4))
    headers = Interval(10, 14, 1_000).headers()
    after = Record(2, Interval(14, 18, 2_000).headers(), encode_rows(sample_rows(14, 4)))

    def make(rng: Random) -> Any:
        value: bytes | None = good
        if rng.random() < 0.4:
            value = encode_rows(odd_rows(rng, sample_rows(10, 4)))
        if rng.random() < 0.6:
            value = mutated_bytes(rng, value or b"")
        found: list[Any] = [list(one) for one in headers]
        if rng.random() < 0.3:
            at = rng.randrange(3)
            match rng.randrange(4):
                case 0:
                    del found[at]
                case 1:
                    found[at][1] = None
                case 2:
                    found[at][1] = mutated_bytes(rng, found[at][1])
                case _:
                    found[at][1] = b"%d" % rng.choice(INTEGERS)
        return [found, value]

    def take(value: Any) -> Outcome:
        found, body = value
        part = SamplePartition("samples[0]", 10)
        record = Record(1, [(name, content) for name, content in found], body)
        try:
            added = part.take(record)
        except SampleTopicError as error:
            return refused(error)
        if added is not None and added.rows is not None:
            added.rows.validate(full=True)
            try:
                rows_of(added.rows, SPEC)
            except SchemaError as error:
                return refused(error)
            added.rows.to_pylist()
        if part.chain.position == 10:
            # No link of the chain: the record itself comes again, and all goes on.
            part.take(Record(1, headers, good))
        if part.chain.position == 14 and part.take(after) is None and not part.chain.ended:
            raise FindingError("the record after it was not read")
        return ACCEPTED if added is not None else {"passed over": 1}  # type: ignore[return-value]

    return Decoder(make, take)


def manifest_tree() -> dict[str, Any]:
    """A good manifest."""
    return {
        "partition": 0, "from": 10, "to": 14, "arrival_ms": 1_000, "samples_offset": 1,
        "is_end": False, "rows": 4,
        "files": [{"path": "day=2024-01-01/a.parquet", "bytes": 4, "sha256": "0" * 64, "rows": 4}],
        "v": 1,
    }  # fmt: skip


PATHS = [
    "../outside.parquet", "/etc/passwd", "day=2024-01-01/../../outside.parquet", "..\\x", "a\0b",
    "", ".", "..", "link.parquet", "links/a.parquet", "pipe", "x" * 5_000, "day=2024-01-01",
    "day=2024-01-01/\u202ea.parquet", "_manifests/p0/00000000000000000010.json",
]  # fmt: skip


def manifests(folder: Path) -> Decoder:
    """``snapshot/manifests.py``, with names that lead out of the directory."""
    directory = folder / "samples"
    place = directory / "_manifests" / "p0" / f"{10:020d}.json"
    place.parent.mkdir(parents=True)
    (directory / "day=2024-01-01").mkdir()
    (directory / "day=2024-01-01" / "a.parquet").write_bytes(b"PAR1")
    outside = folder / "outside.parquet"
    outside.write_bytes(b"PAR1")
    (directory / "link.parquet").symlink_to(outside)
    (directory / "links").symlink_to(folder)

    def make(rng: Random) -> bytes:
        tree: Any = manifest_tree()
        if rng.random() < 0.3:
            tree["files"][0]["path"] = rng.choice(PATHS)
        if rng.random() < 0.8:
            tree = mutated_tree(rng, tree, json_text=True)
        value = json_bytes(tree)
        return mutated_bytes(rng, value) if rng.random() < 0.3 else value

    def take(value: bytes) -> Outcome:
        place.write_bytes(value)
        try:
            found = read_manifests(directory, 0)
            check_files(directory, found)
        except SampleFilesError as error:
            return refused(error)
        for manifest in found:
            for file in manifest.files:
                real = (directory / file.path).resolve()
                if (
                    not real.is_relative_to(directory.resolve())
                    or (directory / file.path).is_symlink()
                ):
                    raise FindingError(f"{file.path!r} leads out of the directory")
        return ACCEPTED

    return Decoder(make, take)


def parquet(folder: Path) -> Decoder:
    """Parquet files whose manifest agrees with them, through ``snapshot/sample_directory.py``."""
    directory = folder / "samples"
    place = directory / "_manifests" / "p0" / f"{10:020d}.json"
    place.parent.mkdir(parents=True)
    path = directory / "a.parquet"
    good = _parquet(sample_rows(10, 4))

    def make(rng: Random) -> Any:
        data = good
        if rng.random() < 0.4:
            data = _parquet(odd_rows(rng, sample_rows(10, 4)))
        if rng.random() < 0.7:
            data = mutated_bytes(rng, data)
        if rng.random() < 0.3:
            # The footer says how large everything is.
            edited = bytearray(data)
            edited[-1_500:] = mutated_bytes(rng, bytes(edited[-1_500:]))
            data = bytes(edited)
        return [data, rng.random() < 0.5]

    def take(value: Any) -> Outcome:
        data, all_columns = value
        path.write_bytes(data)
        tree = manifest_tree()
        digest = hashlib.sha256(data).hexdigest()
        tree["files"] = [{"path": "a.parquet", "bytes": len(data), "sha256": digest, "rows": 4}]
        place.write_bytes(orjson.dumps(tree))
        columns = None if all_columns else ["snapshot_offset", "item_id", SPEC.names[0]]
        try:
            for batch in SampleDirectory(directory).batches(columns):
                batch.validate(full=True)
                batch.to_pylist()
                if all_columns:
                    rows_of(batch, SPEC)
        except (SampleFilesError, SchemaError) as error:
            return refused(error)
        except ValueError as error:
            if "no column" not in str(error):
                raise
            return refused(error)
        return ACCEPTED

    return Decoder(make, take)


def _parquet(rows: pa.RecordBatch) -> bytes:
    sink = pa.BufferOutputStream()
    try:
        pq.write_table(pa.table(rows), sink, compression="zstd", write_page_checksum=True)
    except (pa.ArrowException, ValueError):
        return _parquet(sample_rows(10, 4))
    return bytes(sink.getvalue())
