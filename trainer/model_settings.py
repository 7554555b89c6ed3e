"""Sizes and rates of a model, as settings give them; they are part of a checkpoint."""

from __future__ import annotations

from typing import Annotated

import msgspec

Size = Annotated[int, msgspec.Meta(ge=1)]
Share = Annotated[float, msgspec.Meta(ge=0.0, lt=1.0)]
Rate = Annotated[float, msgspec.Meta(gt=0.0)]


class ModelSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[model]``: a Multi-gate Mixture-of-Experts (Ma et al., KDD 2018) and what feeds it.

    Attributes:
        seed: of everything random, keyed with the batch's number.
        experts, expert_hidden, expert_size: how many, and the widths of their two layers.
        tower_size: width of each task's tower.
        id_size: width of the embeddings of user, query and item ids.
        bucket_size, buckets: width and number of a column's soft buckets.
        positions: slots told apart, deeper ones count as the last.
        position_size: width of the position tower.
        position_dropout: share of the learnt rows whose position is hidden.
        admit_after: learnt rows after which an id gets an embedding of its own.
        max_ids: rows of one table; later ids stay rare.
        standardise_rows: learnt rows after which the wide path's means stay as they are.
        example_age: whether the row's age at training is an input (YouTube's example age).
        learning_rate: of Adam, for the dense weights.
        id_learning_rate: of row-wise Adagrad, for the embeddings of ids.
        weight_decay: decoupled, of the dense weights.
    """

    seed: int = 0
    experts: Size = 4
    expert_hidden: Size = 64
    expert_size: Size = 32
    tower_size: Size = 32
    id_size: Size = 16
    bucket_size: Size = 8
    buckets: Size = 16
    positions: Size = 50
    position_size: Size = 32
    position_dropout: Share = 0.1
    admit_after: Size = 5
    max_ids: Size = 1_000_000
    standardise_rows: Size = 50_000
    example_age: bool = True
    learning_rate: Rate = 0.005
    id_learning_rate: Rate = 0.05
    weight_decay: Annotated[float, msgspec.Meta(ge=0.0)] = 0.0
