"""One command to Redis whose whole answer comes before a deadline, or a typed error.

redis-py's own timeouts bound each wait for a socket, of which one answer may take many. Here the
time left bounds all of them together: connecting, sending, and every part of the answer.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import Any, cast
from urllib.parse import urlsplit

import hiredis
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tenuto.features.unavailable import StoreUnavailableError as StoreUnavailableError

_RECEIVE_BYTES = 1 << 18


class DeadlineExceededError(StoreUnavailableError):
    """The values had not come within ``timeout_ms``."""


class Connections:
    """Connections to one Redis; thread-safe, and a forked child makes its own.

    Args:
        url: ``redis://``, ``rediss://`` or ``unix://``.
        options: further options of ``redis.Redis.from_url`` (password, TLS).
    """

    def __init__(self, url: str, **options: Any) -> None:
        # RESP2 has no push messages: what comes is the answer. A retry is the caller's decision.
        fixed = {"protocol": 2, "retry": Retry(NoBackoff(), 0)}
        self._pool = redis.ConnectionPool.from_url(url, **{**options, **fixed})
        parts = urlsplit(url)
        self._address = f"{parts.hostname}:{parts.port or 6379}" if parts.hostname else parts.path
        # A forked child must not share its parent's sockets, nor close them.
        self._idle: dict[int, list[_Line]] = {}

    def mget(self, keys: Sequence[bytes], timeout_ms: float) -> list[bytes | None]:
        """Values of the keys, in one round trip.

        Raises:
            DeadlineExceededError: not all had come within ``timeout_ms``.
            StoreUnavailableError: Redis cannot be reached, or refused.
        """
        deadline_s = time.monotonic() + timeout_ms / 1000.0
        idle = self._idle.setdefault(os.getpid(), [])
        try:
            line = idle.pop()
        except IndexError:
            line = _Line(self._pool)
        try:
            answer = line.ask(deadline_s, "MGET", *keys)
        except (TimeoutError, redis.TimeoutError) as error:
            # The answer that is still to come must not meet the next request.
            line.close()
            raise DeadlineExceededError(
                f"redis at {self._address}: no whole answer within {timeout_ms:g} ms"
            ) from error
        except (OSError, redis.RedisError, hiredis.HiredisError) as error:
            line.close()
            raise StoreUnavailableError(f"redis at {self._address}: {error}") from error
        except BaseException:
            line.close()
            raise
        idle.append(line)
        if isinstance(answer, hiredis.ReplyError):
            raise StoreUnavailableError(f"redis at {self._address}: {answer}")
        return cast("list[bytes | None]", answer)

    def close(self) -> None:
        """Close this process's idle connections; a later read connects again."""
        for line in self._idle.pop(os.getpid(), []):
            line.close()


class _Line:
    """One connection and the parser of what comes over it."""

    def __init__(self, pool: redis.ConnectionPool) -> None:
        self._connection: Any = pool.connection_class(**pool.connection_kwargs)
        self._reader = hiredis.Reader()
        self._buffer = bytearray(_RECEIVE_BYTES)

    def ask(self, deadline_s: float, *command: str | bytes) -> Any:
        """Send a command and receive its whole answer.

        Raises:
            TimeoutError, redis.TimeoutError: the deadline has passed.
            OSError, redis.RedisError: the connection broke, or could not be made.
        """
        packed = self._connection.pack_command(*command)
        socket = self._socket(deadline_s)
        for part in packed:
            socket.settimeout(_left_s(deadline_s))
            socket.sendall(part)
        reader, buffer = self._reader, self._buffer
        while (answer := reader.gets()) is False:
            socket.settimeout(_left_s(deadline_s))
            n_bytes = socket.recv_into(buffer)
            if not n_bytes:
                raise redis.ConnectionError("closed by the server")
            reader.feed(buffer, 0, n_bytes)  # type: ignore[arg-type]
        return answer

    def close(self) -> None:
        self._connection.disconnect()

    def _socket(self, deadline_s: float) -> Any:
        """A socket that is connected and on which nothing is left over."""
        connection = self._connection
        if connection._sock is not None and self._is_stale():
            connection.disconnect()
        if connection._sock is None:
            self._reader = hiredis.Reader()
            connection.socket_connect_timeout = connection.socket_timeout = _left_s(deadline_s)
            connection.connect()
        return connection._sock

    def _is_stale(self) -> bool:
        try:
            # Nothing was asked: what can be read is the server's goodbye.
            return bool(self._connection.can_read(timeout=0))
        except redis.ConnectionError:
            return True


def _left_s(deadline_s: float) -> float:
    left = deadline_s - time.monotonic()
    if left <= 0.0:
        raise TimeoutError
    return left
