"""A ranker from the serving part of a checkpoint; the only place here that loads torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tenuto.trainer.checkpoints.contents import WEIGHTS
from tenuto.trainer.checkpoints.errors import UnusableModelError
from tenuto.trainer.checkpoints.manifest import Manifest
from tenuto.trainer.checkpoints.reader import LoadedPart

if TYPE_CHECKING:
    from tenuto.trainer.ranker import Ranker

DICTIONARY = "dictionary"
_UNUSABLE = (ArithmeticError, LookupError, MemoryError, RuntimeError, TypeError, ValueError)


def ranker_of(manifest: Manifest, part: LoadedPart, place: str) -> Ranker:
    """The ranker of a checkpoint.

    Args:
        manifest: of the version.
        part: its ``serving`` folder.
        place: where it was read, for messages.

    Raises:
        UnusableModelError: the tensors and the dictionary are not those of the manifest's model, or
            a weight is not finite.
    """
    import torch

    from tenuto.trainer.ranker import Ranker

    try:
        tensors = {name: torch.from_numpy(a) for name, a in part.tensors[WEIGHTS].items()}
        for name, tensor in tensors.items():
            if not tensor.isfinite().all():
                raise ValueError(f"{name}: a weight is not finite")
        return Ranker.load(manifest.spec, tensors, part.documents[DICTIONARY], manifest.version)
    except _UNUSABLE as error:
        raise UnusableModelError(
            f"{place}: no ranker can be made of it: {type(error).__name__}: {error}"
        ) from error
