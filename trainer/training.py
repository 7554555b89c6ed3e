"""What is to be trained, on what: all that a trainer is given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tenuto.features.durations import duration_ms
from tenuto.trainer.checkpoints.announcer import Announcer
from tenuto.trainer.checkpoints.manifest import Origin
from tenuto.trainer.order import SECOND_MS
from tenuto.trainer.spec import ModelSpec
from tenuto.trainer.train_settings import TrainSettings


@dataclass(frozen=True)
class Training:
    """One model and its sample stream.

    Attributes:
        spec: of the model.
        settings: of the trainer.
        model: its name in the store.
        samples: what is learnt from; a model learns from one log.
        horizon_ms: H of the sample stream.
        lateness_ms: longest time from a request to its snapshot's arrival, of the joiner's rules.
        announcers: told of checkpoints, beside the store's own feed.

    Raises:
        ValueError: checkpoints that are not whole seconds apart.
    """

    spec: ModelSpec
    settings: TrainSettings
    model: str
    samples: Origin
    horizon_ms: int
    lateness_ms: int
    announcers: Sequence[Announcer] = ()

    def __post_init__(self) -> None:
        if self.every_ms <= 0 or self.every_ms % SECOND_MS:
            raise ValueError(
                f"checkpoint_every: {self.settings.checkpoint_every!r}: must be whole seconds, at "
                "least one"
            )

    @property
    def every_ms(self) -> int:
        """Distance of the grid's points."""
        return duration_ms(self.settings.checkpoint_every)
