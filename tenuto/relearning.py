"""Learning samples once more, to prove that the weights in a store are a function of them."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from tenuto.features.durations import duration_ms
from tenuto.platform import Platform
from tenuto.settings import Settings
from tenuto.trainer.checkpoints.errors import CheckpointError
from tenuto.trainer.checkpoints.manifest import Announcement, Manifest
from tenuto.trainer.checkpoints.reader import CheckpointReader
from tenuto.training import model_name, trainer_of


class Compared(NamedTuple):
    """One version of a store beside what learning its samples again gives.

    Attributes:
        held: hash of all its tensors, as the store has them.
        relearnt: the same of the repetition; None where that has no such version.
        out_of_reach: whether the repetition does not come by it: it has learnt more than the
            samples given, or was left where a folder ended before the log did.
    """

    version: str
    held: str
    relearnt: str | None
    out_of_reach: bool

    @property
    def equal(self) -> bool:
        return self.held == self.relearnt


class _Heard:
    """Remembers the weights of every version announced."""

    def __init__(self) -> None:
        self.weights: dict[str, str] = {}
        self.front_ms = 0

    def deliver(self, kept: Sequence[Announcement]) -> None:
        for announcement in kept:
            self.front_ms = max(self.front_ms, announcement.front_ms)
            if announcement.manifest is not None:
                self.weights[announcement.version] = announcement.manifest["weights"]


def relearn(settings: Settings, platform: Platform, samples: Path) -> list[Compared]:
    """Learn a sink's samples from the first on, and compare every version in the store.

    The repetition publishes into a folder of its own that is deleted again. Learning costs what it
    did the first time.

    Args:
        settings: of the trainer whose store it is.
        platform: the application.
        samples: the sink's folder.

    Raises:
        CheckpointError: the store has no versions, or they are of another declaration or mode of
            learning than these settings say: only like can be compared with like.
        SampleFilesError, ValueError: as :func:`~tenuto.training.trainer_of`.
    """
    reader = CheckpointReader(settings.trainer.store, model_name(settings, platform))
    held = [reader.manifest(version) for version in reader.versions()]
    if not held:
        raise CheckpointError(f"{reader.store.url}/{reader.model}: there are no checkpoints")
    heard = _Heard()
    with tempfile.TemporaryDirectory(prefix="tenuto-relearn-") as folder:
        trainer_settings = msgspec.structs.replace(
            settings.trainer, store=folder, keep=1, mode=held[-1].mode, metrics_file=""
        )
        again = msgspec.structs.replace(settings, trainer=trainer_settings)
        _check(held, again, platform, reader.store.url)
        trainer = trainer_of(again, platform, samples, announcers=[heard])
        try:
            trainer.run(until_end=True)
        finally:
            trainer.close()
    every_ms = duration_ms(settings.trainer.checkpoint_every)
    return [
        Compared(
            manifest.version,
            manifest.weights,
            heard.weights.get(manifest.version),
            manifest.front_ms > heard.front_ms
            or (manifest.version not in heard.weights and manifest.front_ms % every_ms > 0),
        )
        for manifest in held
    ]


def _check(held: Sequence[Manifest], settings: Settings, platform: Platform, store: str) -> None:
    spec = platform.model_spec(settings.model, settings.time.rules())
    for manifest in held:
        if manifest.spec != spec or manifest.mode != settings.trainer.mode:
            raise CheckpointError(
                f"{store}/{manifest.model}: version {manifest.version} was learnt with other "
                "columns or [model] settings than these: give those of its trainer"
            )
