"""The ranker of a lock-step run: at each boundary the newest checkpoint that is available by then.

A checkpoint that has learnt up to snapshot arrival L holds labels up to L + H, so it is available
from there on, and requests wait for it: which weights order a slate then follows from the log.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tenuto.drive.driver import StalledError
from tenuto.trainer.checkpoints.feed import CheckpointFeed
from tenuto.trainer.ranker import Ranker

_POLL_S = 0.003


@dataclass
class LiveRanker:
    """What orders slates; a :class:`~tenuto.drive.driver.Gate`.

    Args:
        store: folder of the run's checkpoints.
        model: its name there.
        every_ms: distance of the checkpoints in event time.
        horizon_ms: of the sample stream that the model learns from.
        check: called while waiting; raises when waiting is in vain.
        stall_s: how long to wait for the trainer before giving up.

    Attributes:
        ranker: the one in use; None before the first.
        versions: that were in use so far, in order.
        waits_ms: wall time waited at each point of the grid.
        trained_to_ms: snapshot arrival that the one in use has learnt up to.
    """

    store: Path
    model: str
    every_ms: int
    horizon_ms: int
    check: Callable[[], None] = lambda: None
    stall_s: float = 120.0
    ranker: Ranker | None = None
    versions: list[str] = field(default_factory=list)
    waits_ms: list[float] = field(default_factory=list)
    trained_to_ms: int = 0
    _reached_ms: int = 0

    def __post_init__(self) -> None:
        self._feed = CheckpointFeed(str(self.store), model=self.model, follow=False)

    def is_due(self, boundary_ms: int) -> bool:
        """Whether another checkpoint is available at a boundary, or may be."""
        return self._point_ms(boundary_ms) > self._reached_ms

    def wait(self, boundary_ms: int) -> None:
        """Take the newest checkpoint available at the boundary into use, once it is there.

        Raises:
            StalledError: the trainer does not get there.
        """
        point_ms = self._point_ms(boundary_ms)
        if point_ms <= self._reached_ms:
            return
        started = time.monotonic()
        while (announced := self._feed.announced_at(point_ms)) is None:
            if time.monotonic() - started > self.stall_s:
                raise StalledError(
                    f"checkpoints: none was announced for {point_ms} within {self.stall_s:g} s: "
                    "is `tenuto train` running?"
                )
            self.check()
            time.sleep(_POLL_S)
        self._reached_ms = point_ms
        if announced.version and (self.ranker is None or self.ranker.version != announced.version):
            self.ranker = self._feed.load(announced)
            self.versions.append(announced.version)
            self.trained_to_ms = announced.front_ms
        self.waits_ms.append((time.monotonic() - started) * 1000.0)

    def _point_ms(self, boundary_ms: int) -> int:
        """The last point of the grid that is available at a boundary."""
        return (boundary_ms - self.horizon_ms - 1) // self.every_ms * self.every_ms
