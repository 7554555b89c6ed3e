"""A trainer's state as a checkpoint, and back."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import torch

from tenuto.trainer.checkpoints.contents import Checkpoint, Part
from tenuto.trainer.checkpoints.manifest import Origin
from tenuto.trainer.checkpoints.reader import LoadedPart, Resumable
from tenuto.trainer.learner import Learner
from tenuto.trainer.progress import Progress
from tenuto.trainer.scoreboard import Scoreboard
from tenuto.trainer.spec import ModelSpec
from tenuto.trainer.train_settings import TrainSettings

logger = logging.getLogger(__name__)


class ModeError(ValueError):
    """A model that was learnt in the other mode: its metrics would mean nothing."""


@dataclass
class TrainerState:
    """All that a trainer changes."""

    learner: Learner
    progress: Progress
    scoreboard: Scoreboard


def fresh(spec: ModelSpec, settings: TrainSettings) -> TrainerState:
    """Before the first row."""
    scoreboard = Scoreboard(spec, settings.mode, window_rows=settings.window_rows)
    return TrainerState(Learner(spec), Progress(settings.mode), scoreboard)


def restored(spec: ModelSpec, settings: TrainSettings, saved: Resumable) -> TrainerState:
    """As a checkpoint has it, bit for bit; a spec that grew keeps what both mean.

    Raises:
        ModeError: it was learnt in the other mode.
        TensorError: its tensors are not those of its spec.
        ValueError: a size in the model's settings changed.
    """
    state = fresh(spec, settings)
    documents = saved.training.documents
    state.progress = Progress.load(documents["progress"])
    if state.progress.mode != settings.mode:
        raise ModeError(
            f"checkpoint {saved.manifest.version}: was learnt with mode={state.progress.mode!r}, "
            f"not {settings.mode!r}: set it, or give the new model another name"
        )
    before = saved.manifest.spec
    learner = Learner.load(
        before,
        _tensors(saved.serving),
        _tensors(saved.training),
        saved.serving.documents["dictionary"],
        documents["learner"],
    )
    if before == spec:
        state.learner = learner
    else:
        anew = state.learner.adopt(learner)
        logger.warning(
            "checkpoint %s: the model has changed: new: %s; all else is kept",
            saved.manifest.version, ", ".join(anew) or "nothing but settings",
        )  # fmt: skip
    state.scoreboard.load(saved.training.tensors["metrics"])
    return state


def checkpoint_of(
    state: TrainerState, *, horizon_ms: int, samples: Origin, runtime: dict[str, Any]
) -> Checkpoint:
    """The state at a point of the grid, whole."""
    learner, progress = state.learner, state.progress
    return Checkpoint(
        spec=learner.spec,
        front_ms=progress.front_ms,
        horizon_ms=horizon_ms,
        learnt_ms=progress.learnt_ms,
        batches=progress.batches,
        rows=progress.rows,
        mode=progress.mode,
        samples=samples,
        serving=Part({"model": learner.serving_tensors()}, {"dictionary": learner.dictionary()}),
        training=Part(
            {"model": learner.training_tensors(), "metrics": state.scoreboard.state()},
            {"learner": learner.state(), "progress": progress.state()},
        ),
        positions=progress.state()["positions"],
        runtime=runtime,
        metrics=state.scoreboard.values(),
    )


def _tensors(part: LoadedPart) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(array) for name, array in part.tensors["model"].items()}
