"""A learner as the parts of a checkpoint, and back, bit for bit; loads torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from tenuto.trainer.checkpoints.contents import WEIGHTS, Part
from tenuto.trainer.checkpoints.errors import UnusableModelError
from tenuto.trainer.checkpoints.ranker_files import DICTIONARY
from tenuto.trainer.checkpoints.reader import LoadedPart, Resumable
from tenuto.trainer.learner import Learner

LEARNER = "learner"


def parts_of(
    learner: Learner,
    *,
    documents: Mapping[str, Any] | None = None,
    tensors: Mapping[str, Mapping[str, Any]] | None = None,
) -> tuple[Part, Part]:
    """The serving and the training part.

    Args:
        learner: as it is now; read when the checkpoint is published, so learn nothing before.
        documents: further JSON of the training part, by file, such as ``state`` of the loop.
        tensors: further tensors of the training part, by file, such as ``metrics``.
    """
    serving = Part({WEIGHTS: learner.serving_tensors()}, {DICTIONARY: learner.dictionary()})
    training = Part(
        {WEIGHTS: learner.training_tensors(), **(tensors or {})},
        {LEARNER: learner.state(), **(documents or {})},
    )
    return serving, training


def learner_of(found: Resumable) -> Learner:
    """The learner that a checkpoint was made of.

    Raises:
        UnusableModelError: it is not of the manifest's model.
    """
    try:
        return Learner.load(
            found.manifest.spec,
            _torch(found.serving),
            _torch(found.training),
            found.serving.documents[DICTIONARY],
            found.training.documents[LEARNER],
        )
    except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise UnusableModelError(
            f"checkpoint {found.manifest.version}: no learner can be made of it: "
            f"{type(error).__name__}: {error}"
        ) from error


def _torch(part: LoadedPart) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(array) for name, array in part.tensors[WEIGHTS].items()}
