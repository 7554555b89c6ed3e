"""Rows of a sample stream as plain dicts, found by what identifies them.

A row's floats are their little-endian bytes, so that equal means bit for bit, whatever the number.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa

Key = tuple[int, int, int]
"""Partition, snapshot offset, item index."""

Row = dict[str, Any]
Schema = tuple[tuple[str, str, str], ...]
"""Name, type and definition hash (``""`` but for features) of each column, in order."""

KEY_COLUMNS = ("snapshot_partition", "snapshot_offset", "item_index")
HASH_METADATA = b"tenuto.hash"
_FLOATS = {pa.float32(): "<f", pa.float64(): "<d"}
_DECODED = 4


class SampleRows:
    """Every row that was read, with all of its repetitions.

    Attributes:
        places: by key, where each row with it is: (batch, row in it).
    """

    def __init__(self) -> None:
        self.places: dict[Key, list[tuple[int, int]]] = {}
        self._batches: list[pa.RecordBatch] = []
        self._schemas: list[Schema] = []
        self._decoded: dict[int, list[Row]] = {}

    def add(self, batch: pa.RecordBatch) -> list[Key]:
        """Take in a batch; returns the keys of its rows, in order.

        Raises:
            KeyError: a column that identifies rows is missing.
        """
        keys: list[Key] = list(
            zip(*(batch.column(name).to_pylist() for name in KEY_COLUMNS), strict=True)
        )
        number = len(self._batches)
        self._batches.append(batch)
        self._schemas.append(_schema_of(batch.schema))
        for row, key in enumerate(keys):
            self.places.setdefault(key, []).append((number, row))
        return keys

    def of(self, key: Key) -> list[tuple[Schema, Row]]:
        """Every row with this key, with its columns' declarations."""
        return [(self._schemas[b], self._rows(b)[r]) for b, r in self.places.get(key, ())]

    def _rows(self, number: int) -> list[Row]:
        if number not in self._decoded:
            # Rows are asked for in about the order of their batches.
            if len(self._decoded) >= _DECODED:
                self._decoded.pop(next(iter(self._decoded)))
            self._decoded[number] = decode(self._batches[number])
        return self._decoded[number]


def decode(batch: pa.RecordBatch) -> list[Row]:
    """The rows of a batch."""
    columns = [_values(column) for column in batch.columns]
    names = batch.schema.names
    return [dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)]


def packed(value: float | None, type_name: str) -> bytes | None:
    """A float as a row has it; ``type_name`` is ``float`` or ``double``."""
    return None if value is None else struct.pack("<f" if type_name == "float" else "<d", value)


def differences(expected: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """Each column in which two rows differ: ``name: expected …, found …``."""
    texts = []
    for name in dict.fromkeys((*expected, *found)):
        if name not in found:
            texts.append(f"{name}: expected {shown(expected[name])}, found no such column")
        elif name not in expected:
            texts.append(f"{name}: a column that is not expected ({shown(found[name])})")
        elif expected[name] != found[name]:
            texts.append(f"{name}: expected {shown(expected[name])}, found {shown(found[name])}")
    return texts


def shown(value: Any) -> str:
    """A row's value as text; of a float also its bits."""
    if isinstance(value, bytes):
        form = "<f" if len(value) == 4 else "<d"
        return f"{struct.unpack(form, value)[0]!r} (0x{value[::-1].hex()})"
    return repr(value)


def first_of(texts: Iterable[str], most: int = 3) -> str:
    """The first few of several texts."""
    known = list(texts)
    more = f"; and {len(known) - most} more" if len(known) > most else ""
    return "; ".join(known[:most]) + more


def _values(column: pa.Array) -> list[Any]:
    form = _FLOATS.get(column.type)
    if form is None:
        values: list[Any] = column.to_pylist()
        return values
    size = struct.calcsize(form)
    # By their bytes: a number would forget which NaN it is.
    flat = column.fill_null(0.0).to_numpy(zero_copy_only=False).astype(form).tobytes()
    valid = column.is_valid().to_pylist()
    return [flat[at * size : (at + 1) * size] if ok else None for at, ok in enumerate(valid)]


def _schema_of(schema: pa.Schema) -> Schema:
    return tuple(
        (field.name, str(field.type), (field.metadata or {}).get(HASH_METADATA, b"").decode())
        for field in schema
    )
