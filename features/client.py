"""Reading features from Redis within a deadline: one round trip a request, sync and async.

In a cluster it is one to each node that is needed, at the same time.

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

from tenuto.features.cluster import AsyncNodes
from tenuto.features.deadline import (
    ClusterConnections,
    Connections,
    DeadlineExceededError,
    StoreUnavailableError,
)
from tenuto.features.matrix import Matrix
from tenuto.features.reader import KeyPlan, Reader, Request
from tenuto.features.turns import Turns

__all__ = [
    "AsyncFeatureClient",
    "DeadlineExceededError",
    "FeatureClient",
    "StoreUnavailableError",
]


# Of all threads of the process: what they decode with is one interpreter.
_decoding = Turns()


class FeatureClient:
    """Reads matrices synchronously; safe for threads, and for a server that forks.

    Args:
        url: ``redis://`` or ``rediss://``.
        reader: the feature set to read.
        cluster: whether the URL is of a node of a Redis Cluster.
        options: further options of ``redis.Redis.from_url`` (password, TLS).
    """

    def __init__(self, url: str, reader: Reader, *, cluster: bool = False, **options: Any) -> None:
        self.reader = reader
        kind = ClusterConnections if cluster else Connections
        self._connections = kind(url, **options)

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
        values = self.fetch(plan, timeout_ms)
        if self.reader.is_empty(plan, values):
            self.reader.check_signs(self._signs(timeout_ms))
        as_of = request.ts_ms if as_of_ms is None else as_of_ms
        with _decoding:
            return self.reader.decode(request, candidates, given, as_of, plan, values)

    def fetch(self, plan: KeyPlan, timeout_ms: float) -> list[bytes | None]:
        """Values of a plan's keys; raises as ``read``."""
        connections = self._connections
        if isinstance(connections, Connections):
            return connections.mget(plan.keys, timeout_ms)
        parts = plan.by_bucket()
        asked = [(self.reader.slots[b], [plan.keys[at] for at in places]) for b, places in parts]
        return _in_place(plan, parts, connections.mget_each(asked, timeout_ms))

    def _signs(self, timeout_ms: float) -> list[bytes | None]:
        connections, reader = self._connections, self.reader
        if isinstance(connections, Connections):
            return connections.mget(reader.signs, timeout_ms)
        return connections.mget_each([(reader.sign_slot, reader.signs)], timeout_ms)[0]

    def close(self) -> None:
        """Close the connections that are not in use."""
        self._connections.close()


class AsyncFeatureClient:
    """Reads matrices from an asyncio server; as :class:`FeatureClient`, awaited, on one loop."""

    def __init__(self, url: str, reader: Reader, *, cluster: bool = False, **options: Any) -> None:
        self.reader = reader
        # A retry is the caller's decision.
        once = {"retry": Retry(NoBackoff(), 0)}
        self._client = redis.asyncio.Redis.from_url(url, **{**options, **once})
        self._nodes = AsyncNodes(self._client) if cluster else None

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
                values = await self._fetch(plan)
                if self.reader.is_empty(plan, values):
                    self.reader.check_signs(await self._signs())
        except TimeoutError as error:
            message = f"redis: no whole answer within {timeout_ms:g} ms"
            raise DeadlineExceededError(message) from error
        except redis.RedisError as error:
            raise StoreUnavailableError(f"redis: {error}") from error
        as_of = request.ts_ms if as_of_ms is None else as_of_ms
        return self.reader.decode(request, candidates, given, as_of, plan, values)

    async def _fetch(self, plan: KeyPlan) -> list[bytes | None]:
        if self._nodes is None:
            return cast("list[bytes | None]", await self._client.mget(plan.keys))
        parts = plan.by_bucket()
        asked = [(self.reader.slots[b], [plan.keys[at] for at in places]) for b, places in parts]
        return _in_place(plan, parts, await self._nodes.mget_each(asked))

    async def _signs(self) -> list[bytes | None]:
        if self._nodes is None:
            return cast("list[bytes | None]", await self._client.mget(self.reader.signs))
        return (await self._nodes.mget_each([(self.reader.sign_slot, self.reader.signs)]))[0]

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()
        if self._nodes is not None:
            await self._nodes.aclose()


def _in_place(
    plan: KeyPlan,
    parts: Sequence[tuple[int, Sequence[int]]],
    answers: Sequence[Sequence[bytes | None]],
) -> list[bytes | None]:
    """The answers of buckets in the order of the plan's keys."""
    values: list[bytes | None] = [None] * len(plan.keys)
    for (_, places), answer in zip(parts, answers, strict=True):
        for place, value in zip(places, answer, strict=True):
            values[place] = value
    return values
