"""A simulated run: a world's traffic through the real components, slates ordered by live features.

20 % of the requests are shuffled and 10 % ordered by smoothed CTR, by hash of the request; the
ranker's share is smoothed CTR too until there is a ranker.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from tenuto.drive.driver import Counts, Driver, Slate
from tenuto.drive.run import Run
from tenuto.drive.simulator import Simulator
from tenuto.drive.slates import SLATE
from tenuto.drive.source import Request
from tenuto.features.durations import duration_ms
from tenuto.features.matrix import Matrix

PREROLL_FRESHNESS = "10m"
"""The day before the run is coarse: it only fills the windows."""

SMOOTHED_CTR = "item_ctr_1d"


@dataclass
class Simulation:
    """A world in a run.

    Args:
        run: servers and workers.
        world: the simulator.
        speed: event time per wall time; 0 is as fast as it goes.
        budget_s: wall seconds after which it ends, whatever the world's duration.
        on_boundary: called after each boundary.

    Attributes:
        counts: of the pre-roll and the run together, once they began.
    """

    run: Run
    world: Simulator
    speed: float = 0.0
    budget_s: float | None = None
    on_boundary: Callable[[Counts], None] = lambda counts: None
    counts: Counts = field(default_factory=Counts)
    _began_s: float | None = None

    def is_halfway(self) -> bool:
        """Whether half of the budget is used; the pre-roll does not count."""
        if self._began_s is None or self.budget_s is None:
            return False
        return time.monotonic() - self._began_s > self.budget_s / 2

    def drive(self) -> Counts:
        """Pre-roll, then the run, then the end marks."""
        driver = self.run.driver(self.world.preroll, self._preroll_policy)
        self.counts = driver.counts
        driver.freshness_ms = duration_ms(PREROLL_FRESHNESS)
        self._until_budget(driver, self.world.preroll.start_ms, pace=False)
        driver.go_on(self.world, self._policy, duration_ms(self.run.options.freshness))
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
                time.sleep(max(0.0, (boundary_ms - start_ms) / 1000.0 / self.speed - elapsed))
        return last_ms

    def _preroll_policy(self, request: Request, matrix: Matrix) -> Slate:
        return Slate(self.world.preroll.shuffled(request)[:SLATE], "shuffle", slice="preroll")

    def _policy(self, request: Request, matrix: Matrix) -> Slate:
        share = self.world.policy_of(request.request_id)
        if share == "shuffle" or SMOOTHED_CTR not in matrix.names:
            return Slate(self.world.shuffled(request)[:SLATE], "shuffle", slice=share)
        scores = np.nan_to_num(matrix.column(SMOOTHED_CTR), nan=-1.0)
        # A stable order: what scores alike stays in the order of retrieval.
        order = np.argsort(-scores, kind="stable")[:SLATE]
        return Slate(order.tolist(), "smoothed_ctr", {"score": scores[order]}, slice=share)
