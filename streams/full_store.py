"""What a worker does while Redis has no memory left: it waits, and says so once.

Redis refuses a script before its first write, so nothing is half done, and what is tried again is
done once. Readers go on meanwhile; their values turn stale.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import TypeVar

import redis
from prometheus_client import Gauge

from tenuto.features.store import StoreError

logger = logging.getLogger(__name__)
T = TypeVar("T")


class StoreFullError(StoreError):
    """Redis had no memory for a write, and the worker could not go on waiting."""


def is_full(error: Exception) -> bool:
    """Whether Redis refused a write because its memory is full."""
    if isinstance(error, redis.exceptions.OutOfMemoryError):
        return True
    # An old Redis wraps what stopped a script into an error of its own.
    return isinstance(error, redis.ResponseError) and "OOM command not allowed" in str(error)


class FullStore:
    """Tries a write again until Redis has memory for it.

    Args:
        gauge: shows 1 while it waits.
        every_s: between two tries.
        limit_s: how long it waits before the worker crashes, and its manager starts another.
    """

    def __init__(self, gauge: Gauge, *, every_s: float = 1.0, limit_s: float = 300.0) -> None:
        self._gauge = gauge
        self._every_s = every_s
        self._limit_s = limit_s
        self._leaving = asyncio.Event()

    def leave(self) -> None:
        """End every wait with an error: the partitions are wanted by somebody else."""
        self._leaving.set()

    def stay(self) -> None:
        """Waiting is right again."""
        self._leaving.clear()

    async def through(self, write: Callable[[], T]) -> T:
        """The result of a blocking write, which is called in a thread.

        Raises:
            StoreFullError: it waited for ``limit_s``, or must leave.
        """
        since_s: float | None = None
        try:
            while True:
                try:
                    result = await asyncio.to_thread(write)
                except redis.ResponseError as error:
                    if not is_full(error):
                        raise
                    if since_s is None:
                        since_s = time.monotonic()
                        self._gauge.set(1)
                        logger.error(
                            "redis is full (%s): nothing is lost, waiting for memory; raise "
                            "maxmemory, or delete what is not needed", error,
                        )  # fmt: skip
                    await self._wait(since_s, error)
                    continue
                if since_s is not None:
                    waited_s = time.monotonic() - since_s
                    logger.warning("redis has memory again, after %.0f s", waited_s)
                return result
        finally:
            if since_s is not None:
                self._gauge.set(0)

    async def _wait(self, since_s: float, error: Exception) -> None:
        if time.monotonic() - since_s > self._limit_s:
            raise StoreFullError(f"redis is full for {self._limit_s:.0f} s: {error}") from error
        try:
            await asyncio.wait_for(self._leaving.wait(), self._every_s)
        except TimeoutError:
            return
        raise StoreFullError("redis is full: the batch in hand is left to the next") from error

    @property
    def leaving(self) -> bool:
        return self._leaving.is_set()
