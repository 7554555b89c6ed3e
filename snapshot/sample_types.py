"""Which columns Arrow may bring as samples, asked before any of their bytes is used.

Samples have a few plain types. Whatever else Arrow knows (lists, nulls without bytes, dictionaries)
is foreign, and some of it claims rows by the billion without a byte for any of them.
"""

from __future__ import annotations

import struct
from collections import Counter

import pyarrow as pa

TYPES = frozenset(
    [pa.string(), pa.bool_(), pa.uint8(), pa.int32(), pa.int64(), pa.float32(), pa.float64()]
)
_HEADER, _COMPRESSION = 2, 3


def schema_fault(schema: pa.Schema) -> str:
    """Why no samples can have this schema; "" if they can."""
    try:
        names = Counter(schema.names)
    except UnicodeDecodeError as error:
        return f"a column's name is not UTF-8 ({error.reason})"
    twice = [name for name, count in names.items() if count > 1]
    if twice:
        return f"column {twice[0][:60]!r} is there twice"
    for field in schema:
        if field.type not in TYPES:
            return f"column {field.name[:60]!r}: {str(field.type)[:60]}: no sample has that type"
    if schema.get_field_index("snapshot_offset") < 0:
        return "column 'snapshot_offset' is missing"
    if schema.field("snapshot_offset").type != pa.int64():
        return f"column 'snapshot_offset': {schema.field('snapshot_offset').type}: must be int64"
    return ""


def is_compressed(metadata: bytes) -> bool:
    """Whether a record batch message says that its buffers are compressed.

    Joiners write none such, and a compressed one may claim any size. (Arrow's columnar format,
    Message.fbs: the header is the table's third field, its compression the fourth.)
    """
    try:
        (root,) = struct.unpack_from("<I", metadata)
        header = _field(metadata, root, _HEADER)
        if header is None:
            return False
        (offset,) = struct.unpack_from("<I", metadata, header)
        return _field(metadata, header + offset, _COMPRESSION) is not None
    except struct.error:
        return False


def _field(metadata: bytes, table: int, number: int) -> int | None:
    """Where a flatbuffer's table has a field; None where it has not."""
    (back,) = struct.unpack_from("<i", metadata, table)
    (size,) = struct.unpack_from("<H", metadata, table - back)
    if 4 + 2 * number >= size:
        return None
    (offset,) = struct.unpack_from("<H", metadata, table - back + 4 + 2 * number)
    return table + offset if offset else None
