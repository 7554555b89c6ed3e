"""A simulated run: a world's traffic through the real components, the live ranker ordering slates.

20 % of the requests are shuffled and 10 % ordered by smoothed CTR, by hash of the request; the
rest is the ranker's, and smoothed CTR's until there is one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from tenuto.drive.driver import Counts, Driver, Slate
from tenuto.drive.run import TRAINER, Run
from tenuto.drive.simulator import Simulator
from tenuto.drive.slates import SLATE
from tenuto.drive.source import EventRecord, Request
from tenuto.features.durations import duration_ms
from tenuto.features.matrix import Matrix
from tenuto.presets.video_events import clicks, impressions

if TYPE_CHECKING:
    # They load torch, which a run without a ranker does without.
    from tenuto.drive.live_ranker import LiveRanker
    from tenuto.trainer.ranker import Ranker

PREROLL_FRESHNESS = "10m"
"""The day before the run is coarse: it only fills the windows."""

SMOOTHED_CTR = "item_ctr_1d"
RANKER = "ranker"


@dataclass
class Seen:
    """What users saw and clicked of one policy's slates."""

    impressions: int = 0
    clicks: int = 0

    @property
    def click_rate(self) -> float:
        """Clicks per impression, 0 without any."""
        return self.clicks / max(1, self.impressions)


@dataclass
class Simulation:
    """A world in a run.

    Args:
        run: servers and workers.
        world: the simulator.
        speed: event time per wall time; 0 is as fast as it goes.
        budget_s: wall seconds after which it ends, whatever the world's duration.
        ranker: what orders its share of the slates.
        on_boundary: called after each boundary.

    Attributes:
        counts: of the pre-roll and the run together, once they began.
        seen: what was seen and clicked so far, by policy; the pre-roll does not count.
    """

    run: Run
    world: Simulator
    speed: float = 0.0
    budget_s: float | None = None
    ranker: LiveRanker | None = None
    on_boundary: Callable[[Counts], None] = lambda counts: None
    counts: Counts = field(default_factory=Counts)
    seen: dict[str, Seen] = field(default_factory=dict)
    _began_s: float | None = None

    def is_past(self, share: float) -> bool:
        """Whether this share of the budget is used; the pre-roll does not count."""
        if self._began_s is None or self.budget_s is None:
            return False
        return time.monotonic() - self._began_s > self.budget_s * share

    def waits_ms(self, worker: str) -> list[float]:
        """How long boundaries waited for a worker, wall time, in order."""
        if worker == TRAINER:
            return self.ranker.waits_ms if self.ranker is not None else []
        return self.counts.freshness_ms

    def drive(self) -> Counts:
        """Pre-roll, then the run, then the end marks."""
        driver = self.run.driver(
            self.world.preroll, self._preroll_policy, on_outcomes=self._observe
        )
        self.counts = driver.counts
        driver.freshness_ms = duration_ms(PREROLL_FRESHNESS)
        self._until_budget(driver, self.world.preroll.start_ms, pace=False)
        driver.go_on(self.world, self._policy, duration_ms(self.run.options.freshness), self.ranker)
        last_ms = self._until_budget(driver, self.world.start_ms, pace=True)
        driver.finish(last_ms)
        return driver.counts

    def _until_budget(self, driver: Driver, start_ms: int, *, pace: bool) -> int:
        started = time.monotonic()
        self._began_s = started if pace else None
        last_ms = start_ms
        for boundary_ms, latest_ms in driver.boundaries():
            last_ms = latest_ms
            self.on_boundary(driver.counts)
            elapsed = time.monotonic() - started
            if pace and self.budget_s is not None and elapsed > self.budget_s:
                break
            if pace and self.speed:
                # How fast event time runs is for those who watch: it changes no row.
                self._sleep_until(started + (boundary_ms - start_ms) / 1000.0 / self.speed)
        return last_ms

    def _sleep_until(self, due_s: float) -> None:
        while (left_s := due_s - time.monotonic()) > 0:
            self.run.check()
            time.sleep(min(left_s, 0.1))

    def _preroll_policy(self, request: Request, matrix: Matrix) -> Slate:
        return Slate(self.world.preroll.shuffled(request)[:SLATE], "shuffle", slice="preroll")

    def _policy(self, request: Request, matrix: Matrix) -> Slate:
        share = self.world.policy_of(request.request_id)
        if share == "ranker" and self.ranker is not None and self.ranker.ranker is not None:
            return self._ranked(self.ranker.ranker, matrix, share)
        if share == "shuffle" or SMOOTHED_CTR not in matrix.names:
            return Slate(self.world.shuffled(request)[:SLATE], "shuffle", slice=share)
        scores = np.nan_to_num(matrix.column(SMOOTHED_CTR), nan=-1.0)
        # A stable order: what scores alike stays in the order of retrieval.
        order = np.argsort(-scores, kind="stable")[:SLATE]
        return Slate(order.tolist(), "smoothed_ctr", {"score": scores[order]}, slice=share)

    def _ranked(self, ranker: Ranker, matrix: Matrix, share: str) -> Slate:
        scores = ranker.score(matrix)
        order = np.argsort(-scores[ranker.objective], kind="stable")[:SLATE]
        shown = {name: scores[name][order] for name in scores}
        return Slate(order.tolist(), RANKER, shown, slice=share, model=ranker.version)

    def _observe(self, slate: Slate, events: Sequence[EventRecord]) -> None:
        if slate.slice == "preroll":
            return
        seen = self.seen.setdefault(slate.policy, Seen())
        seen.impressions += sum(event.event == impressions.name for event in events)
        seen.clicks += sum(event.event == clicks.name for event in events)
