"""Reading features from Redis within a deadline: one round trip a request, sync and async.

A store failure or a missed deadline is a typed error that the caller sees, never a silent zero.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, cast

import redis
import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from tenuto.features.deadline import Connections, DeadlineExceededError, StoreUnavailableError
from tenuto.features.matrix import Matrix
from tenuto.features.reader import Reader, Request

__all__ = [
    "AsyncFeatureClient",
    "DeadlineExceededError",
    "FeatureClient",
    "StoreUnavailableError",
]


class FeatureClient:
    """Reads matrices synchronously; safe for threads, and for a server that forks.

    Args:
        url: ``redis://`` or ``rediss://``.
        reader: the feature set to read.
        options: further options of ``redis.Redis.from_url`` (password, TLS).
    """

    def __init__(self, url: str, reader: Reader, **options: Any) -> None:
        self.reader = reader
        self._connections = Connections(url, **options)

    def read(
        self,
        request: Request,
        candidates: Sequence[str],
        context: Mapping[str, Any] | None = None,
        *,
        timeout_ms: float = 50.0,
        as_of_ms: int | None = None,
    ) -> Matrix:
        """Features of the candidates, windows as of ``as_of_ms`` (the request's time by default).

        Raises:
            DeadlineExceededError: not the whole answer within ``timeout_ms``, connecting included.
            StoreUnavailableError: Redis cannot be reached, or refused.
            ContextError: context that was not declared so.
            AsOfTooOldError: the moment lies behind what the store still holds.
            PartitionCountError: the store was written with another number of partitions.
            BucketCountError: the store is kept in another number of buckets.
        """
        given = self.reader.context(context or {}, len(candidates))
        plan = self.reader.plan(request, candidates, given)
        values = self._connections.mget(plan.keys, timeout_ms)
        if self.reader.is_empty(plan, values):
            self.reader.check_signs(self._connections.mget(self.reader.signs, timeout_ms))
        as_of = request.ts_ms if as_of_ms is None else as_of_ms
        return self.reader.decode(request, candidates, given, as_of, plan, values)

    def close(self) -> None:
        """Close the connections that are not in use."""
        self._connections.close()


class AsyncFeatureClient:
    """Reads matrices from an asyncio server; as :class:`FeatureClient`, awaited, on one loop."""

    def __init__(self, url: str, reader: Reader, **options: Any) -> None:
        self.reader = reader
        # A retry is the caller's decision.
        once = {"retry": Retry(NoBackoff(), 0)}
        self._client = redis.asyncio.Redis.from_url(url, **{**options, **once})

    async def read(
        self,
        request: Request,
        candidates: Sequence[str],
        context: Mapping[str, Any] | None = None,
        *,
        timeout_ms: float = 50.0,
        as_of_ms: int | None = None,
    ) -> Matrix:
        """As :meth:`FeatureClient.read`."""
        given = self.reader.context(context or {}, len(candidates))
        plan = self.reader.plan(request, candidates, given)
        try:
            async with asyncio.timeout(timeout_ms / 1000.0):
                values = cast("list[bytes | None]", await self._client.mget(plan.keys))
                if self.reader.is_empty(plan, values):
                    signs = await self._client.mget(self.reader.signs)
                    self.reader.check_signs(cast("list[bytes | None]", signs))
        except TimeoutError as error:
            message = f"redis: no whole answer within {timeout_ms:g} ms"
            raise DeadlineExceededError(message) from error
        except redis.RedisError as error:
            raise StoreUnavailableError(f"redis: {error}") from error
        as_of = request.ts_ms if as_of_ms is None else as_of_ms
        return self.reader.decode(request, candidates, given, as_of, plan, values)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()
