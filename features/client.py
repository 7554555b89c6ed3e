"""Reading features from Redis within a deadline: one round trip a request, sync and async.

A store failure or a missed deadline is a typed error that the caller sees, never a silent zero.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Mapping, Sequence
from typing import Any, cast

import redis
import redis.asyncio

from tenuto.features.matrix import Matrix
from tenuto.features.reader import KeyPlan, Reader, Request


class StoreUnavailableError(RuntimeError):
    """Redis did not answer, or answered with an error."""


class DeadlineExceededError(StoreUnavailableError):
    """The values had not come within ``timeout_ms``."""


class FeatureClient:
    """Reads matrices synchronously; safe for threads, and for a server that forks.

    Args:
        url: ``redis://`` or ``rediss://``.
        reader: the feature set to read.
        options: further options of ``redis.Redis.from_url`` (password, TLS).
    """

    def __init__(self, url: str, reader: Reader, **options: Any) -> None:
        self.reader = reader
        self._url, self._options = url, options
        self._pool: redis.ConnectionPool | None = None
        self._pid = 0

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
            DeadlineExceededError: no answer within ``timeout_ms``.
            StoreUnavailableError: Redis cannot be reached, or refused.
            ContextError: context that was not declared so.
        """
        given = self.reader.context(context or {}, len(candidates))
        plan = self.reader.plan(request, candidates, given)
        values = self._fetch(plan, timeout_ms)
        as_of = request.ts_ms if as_of_ms is None else as_of_ms
        return self.reader.decode(request, candidates, given, as_of, plan, values)

    def close(self) -> None:
        """Close the connections."""
        if self._pool is not None:
            self._pool.disconnect()

    def _connections(self) -> redis.ConnectionPool:
        # A forked child must not share its parent's sockets.
        if self._pool is None or self._pid != os.getpid():
            self._pool = redis.ConnectionPool.from_url(
                self._url, **{"socket_connect_timeout": 1.0, "socket_timeout": 5.0, **self._options}
            )
            self._pid = os.getpid()
        return self._pool

    def _fetch(self, plan: KeyPlan, timeout_ms: float) -> Sequence[bytes | None]:
        deadline = time.monotonic() + timeout_ms / 1000.0
        pool = self._connections()
        try:
            connection = pool.get_connection()
        except redis.RedisError as error:
            raise StoreUnavailableError(f"redis at {self._address()}: {error}") from error
        try:
            connection.send_command("MGET", *plan.keys)  # type: ignore[no-untyped-call]
            if not connection.can_read(timeout=max(0.0, deadline - time.monotonic())):
                # The answer that is still to come must not meet the next request.
                connection.disconnect()  # type: ignore[no-untyped-call]
                raise DeadlineExceededError(f"features: no answer within {timeout_ms:g} ms")
            return cast("list[bytes | None]", connection.read_response())
        except redis.RedisError as error:
            connection.disconnect()  # type: ignore[no-untyped-call]
            raise StoreUnavailableError(f"redis at {self._address()}: {error}") from error
        finally:
            pool.release(connection)

    def _address(self) -> str:
        return self._url.rsplit("@", 1)[-1].removeprefix("redis://").removeprefix("rediss://")


class AsyncFeatureClient:
    """Reads matrices from an asyncio server; as :class:`FeatureClient`, awaited."""

    def __init__(self, url: str, reader: Reader, **options: Any) -> None:
        self.reader = reader
        self._url = url
        self._client = redis.asyncio.Redis.from_url(url, **options)

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
        except TimeoutError as error:
            raise DeadlineExceededError(f"features: no answer within {timeout_ms:g} ms") from error
        except redis.RedisError as error:
            raise StoreUnavailableError(f"redis: {error}") from error
        as_of = request.ts_ms if as_of_ms is None else as_of_ms
        return self.reader.decode(request, candidates, given, as_of, plan, values)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()
