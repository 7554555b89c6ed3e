"""Trying again what a full disk or an unreachable server refused, a bounded number of times."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from tenuto.trainer.checkpoints.errors import PublishError

T = TypeVar("T")


@dataclass(frozen=True)
class Retry:
    """How often, and how long to wait in between.

    Attributes:
        attempts: at most.
        wait_s: before the second; doubles.
        sleep: waits; tests give their own.
    """

    attempts: int = 5
    wait_s: float = 0.5
    sleep: Callable[[float], None] = time.sleep

    def run(
        self,
        what: str,
        action: Callable[[], T],
        transient: tuple[type[Exception], ...],
        on_failure: Callable[[Exception], None],
    ) -> T:
        """The action's value.

        Args:
            what: for the message.
            action: to try; must be safe to repeat.
            transient: what is worth another try; anything else goes through.
            on_failure: told of each failure, such as a metric.

        Raises:
            PublishError: it failed every time; its cause is the last failure.
        """
        for attempt in range(1, self.attempts + 1):
            try:
                return action()
            except transient as error:
                on_failure(error)
                if attempt == self.attempts:
                    raise PublishError(f"{what}: {error}: tried {attempt} times") from error
                self.sleep(self.wait_s * 2.0 ** (attempt - 1))
        raise ValueError("attempts: must be ≥ 1")
