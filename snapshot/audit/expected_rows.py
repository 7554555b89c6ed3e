"""What the rows of a snapshot must be: its own bytes, and the labels found by brute force."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tenuto.snapshot.audit.labels import Slots
from tenuto.snapshot.audit.rows import Row, Schema, packed
from tenuto.snapshot.labels import SampleStream

_REQUEST = (
    ("request_id", "string"), ("user_id", "string"), ("query", "string"), ("item_id", "string"),
    ("position", "int32"), ("request_ts_ms", "int64"), ("as_of_ms", "int64"),
)  # fmt: skip
_ORIGIN = (
    ("policy", "string"), ("slice", "string"), ("model", "string"), ("propensity", "double"),
    ("weight", "double"), ("snapshot_partition", "int32"), ("snapshot_offset", "int64"),
    ("item_index", "int32"), ("snapshot_arrival_ms", "int64"),
)  # fmt: skip
_TYPES = {int: "int64", bool: "bool", float: "double"}


def slots_of(fields: Mapping[str, Any]) -> Slots:
    """A snapshot's shown items and their positions."""
    items = fields["items"]
    positions = fields.get("positions")
    return list(zip(items, range(len(items)) if positions is None else positions, strict=True))


def label_types(stream: SampleStream) -> dict[str, str]:
    """Type of each column that a stream's labels fill, the impression's before them."""
    types = {"impressed": "uint8", "impression_delay_ms": "int64"}
    for label in stream.labels:
        types[label.name] = "uint8" if label.kind == "first" else "int64"
        if label.delay:
            types[label.delay] = "int64"
        for name in label.carry:
            types[name] = _TYPES[label.event.all_fields[name].type]
    return types


def expected_schema(
    columns: Sequence[tuple[str, str]], labels: Mapping[str, str], scores: Sequence[str]
) -> Schema:
    """The columns of a sample row, in the order of docs/samples.md.

    Args:
        columns: (name, definition hash) of the snapshot's features.
        labels: as :func:`label_types` says.
        scores: names of the served scores that samples show.
    """
    features = []
    for name, digest in columns:
        if name in labels or name + "__state" in labels:
            # A feature from before there was a label of that name.
            continue
        features += [(name, "float", digest), (name + "__state", "uint8", "")]
    served = [(f"served_{name}", "float", "") for name in scores]
    plain = [(name, type_name, "") for name, type_name in labels.items()]
    request = [(name, type_name, "") for name, type_name in _REQUEST]
    origin = [(name, type_name, "") for name, type_name in _ORIGIN]
    return (*request, *features, *plain, *served, *origin)


def expected_row(
    fields: Mapping[str, Any],
    place: tuple[int, int, int],
    item: int,
    labels: Mapping[str, Any],
    types: Mapping[str, str],
    scores: Sequence[str],
) -> Row:
    """One row, floats as their bytes.

    Args:
        fields: of the snapshot.
        place: its partition, offset and arrival.
        item: index of the shown item.
        labels: the row's label columns by name; ``types`` theirs.
        scores: names of the served scores that samples show.
    """
    item_id, position = slots_of(fields)[item]
    row: Row = {
        "request_id": fields["request_id"],
        "user_id": fields["user_id"],
        "query": fields["query"],
        "item_id": item_id,
        "position": None if position < 0 else position,
        "request_ts_ms": fields["request_ts"],
        "as_of_ms": fields["as_of"],
    }
    width = len(fields["columns"])
    for number, (name, _) in enumerate(fields["columns"]):
        cell = item * width + number
        if name in types or name + "__state" in types:
            continue
        row[name] = fields["values"][4 * cell : 4 * cell + 4]
        row[name + "__state"] = fields["states"][cell]
    for name, type_name in types.items():
        value = labels[name]
        row[name] = packed(value, type_name) if type_name == "double" else value
    for name in scores:
        score = fields.get("scores", {}).get(name)
        row[f"served_{name}"] = None if score is None else score[4 * item : 4 * item + 4]
    row["policy"] = fields.get("policy", "")
    row["slice"] = fields.get("slice", "")
    row["model"] = fields.get("model", "")
    row["propensity"] = packed(fields.get("propensity"), "double")
    row["weight"] = packed(fields.get("weight", 1.0), "double")
    partition, offset, arrival_ms = place
    row["snapshot_partition"], row["snapshot_offset"] = partition, offset
    row["item_index"], row["snapshot_arrival_ms"] = item, arrival_ms
    return row
