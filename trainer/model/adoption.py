"""Growing a model: everything that two specs share keeps its weights, by name and definition.

Each axis of a tensor that is of columns, inputs or heads has their labels; what both models label
alike is copied, and what is new starts so that it changes no prediction until it has learnt.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

import torch
from torch import Tensor

from tenuto.trainer.spec import EXAMPLE_AGE, ModelSpec

Labels = Sequence[Hashable]

_SILENT = ("network.mmoe.hidden", "network.position.columns.table")
"""Tensors in which whatever is new starts at zero."""


def adopted(
    new: Mapping[str, Tensor], new_spec: ModelSpec, old: Mapping[str, Tensor], old_spec: ModelSpec
) -> dict[str, Tensor]:
    """The new model's tensors with the old one's values wherever they mean the same.

    Args:
        new, old: tensors by name, ``network.``, ``moments.`` and ``adam.``.
        new_spec, old_spec: what they are of.

    Raises:
        ValueError: a size in the settings changed; names the tensor.
    """
    found = {}
    for name, fresh in new.items():
        plain = _plain(name)
        target = torch.zeros_like(fresh) if plain in _SILENT else fresh.clone()
        found[name] = target
        if name not in old:
            continue
        axes = zip(
            _axes(plain, new_spec, fresh.dim()), _axes(plain, old_spec, fresh.dim()), strict=True
        )
        pairs = [
            _shared(to, of, fresh.shape[axis], old[name].shape[axis], name)
            for axis, (to, of) in enumerate(axes)
        ]
        if all(len(to) for to, _ in pairs):
            to_index = torch.meshgrid(*(to for to, _ in pairs), indexing="ij")
            of_index = torch.meshgrid(*(of for _, of in pairs), indexing="ij")
            target[to_index] = old[name][of_index]
    return found


def fresh_parts(new: ModelSpec, old: ModelSpec) -> list[str]:
    """Names of the columns and heads that the old model does not have as they are now."""
    columns = [c.name for c in new.columns if c not in old.columns]
    known = set(_heads(old))
    return columns + [
        h.name for h, label in zip(new.heads, _heads(new), strict=True) if label not in known
    ]


def _axes(name: str, spec: ModelSpec, dims: int) -> list[Labels | None]:
    """Labels of each axis of a tensor; None for one whose places are not of anything by name."""
    main = [c for c in spec.columns if c.role == "main"]
    beside = [c for c in spec.columns if c.role == "position"]
    aged: list[Hashable] = [*main, *([EXAMPLE_AGE] if spec.settings.example_age else [])]
    settings = spec.settings
    inputs = [(label, place) for label in aged for place in range(settings.bucket_size)]
    inputs += [(table, place) for table in spec.ids for place in range(settings.id_size)]
    heads = _heads(spec)
    roots = [label for label, head in zip(heads, spec.heads, strict=True) if head.given is None]
    named: dict[str, list[Labels | None]] = {
        "network.buckets.table": [aged],
        "network.mmoe.hidden": [inputs],
        "network.mmoe.gate": [inputs, heads],
        "network.mmoe.gate_bias": [heads],
        "network.mmoe.tower": [heads],
        "network.mmoe.tower_bias": [heads],
        "network.mmoe.out": [heads],
        "network.wide.weight": [heads, main],
        "network.wide.means": [main],
        "network.wide.inverse_deviations": [main],
        "network.bias": [heads],
        "network.position.columns.table": [beside],
        "network.position.out": [None, roots],
        "moments": [main],
    }
    axes = named.get(name, [])
    return axes + [None] * (dims - len(axes))


def _heads(spec: ModelSpec) -> list[tuple[str, str, str | None]]:
    return [(head.name, head.label, head.given) for head in spec.heads]


def _shared(
    to: Labels | None, of: Labels | None, to_size: int, of_size: int, name: str
) -> tuple[Tensor, Tensor]:
    """Places on one axis of what both have, in the new and in the old tensor."""
    if to is None or of is None:
        if to_size != of_size:
            raise ValueError(
                f"tensor {name!r}: {of_size} became {to_size}: a size in [model] changed: keep it, "
                "or train a new model"
            )
        return torch.arange(to_size), torch.arange(to_size)
    at = {label: place for place, label in enumerate(of)}
    pairs = [(place, at[label]) for place, label in enumerate(to) if label in at]
    return torch.tensor([t for t, _ in pairs]).long(), torch.tensor([o for _, o in pairs]).long()


def _plain(name: str) -> str:
    """The tensor whose axes it shares: an optimiser's moments have those of their weights."""
    if name.startswith("adam."):
        return "network." + name.split(".", 2)[2]
    return "moments" if name.startswith("moments.") else name
