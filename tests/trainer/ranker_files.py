"""Checkpoints of real models, tiny ones, whose scores tell which version gave them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from checkpoint_files import SPEC, checkpoint

from tenuto.features.matrix import Matrix, Stamp
from tenuto.features.schema import Column
from tenuto.trainer.checkpoints.contents import Checkpoint, Part
from tenuto.trainer.learner import Learner

COLUMNS = (Column("hour", "00"), Column(SPEC.columns[0].name, SPEC.columns[0].hash))


def model_checkpoint(number: int, learner: Learner | None = None, **changes: Any) -> Checkpoint:
    """The ``number``-th one; its weights follow from the number alone, unless given."""
    learner = learner or numbered_learner(number)
    serving = Part({"model": learner.serving_tensors()}, {"dictionary": learner.dictionary()})
    training = Part({"model": learner.training_tensors()}, {"learner": learner.state()})
    changes = {"spec": learner.spec, "serving": serving, "training": training} | changes
    return checkpoint(number, **changes)


def numbered_learner(number: int) -> Learner:
    learner = Learner(SPEC)
    with torch.no_grad():
        for name, tensor in sorted(learner.serving_tensors().items()):
            if "bias" in name:
                tensor += 0.1 * number
    return learner


def matrix(values: Sequence[float], columns: Sequence[Column] = COLUMNS) -> Matrix:
    """Candidates with these values of the model's column."""
    n, m = len(values), len(columns)
    table = np.zeros((n, m), np.float32)
    table[:, -1] = values
    return Matrix(
        items=[f"i{index}" for index in range(n)],
        columns=tuple(columns),
        values=table,
        states=np.zeros((n, m), np.uint8),
        as_of_ms=0,
        stamp=Stamp((), np.zeros((0, 0))),
        layout="",
        context={},
        user_id="u",
        query="q",
    )
