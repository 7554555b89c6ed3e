"""Commands to Redis whose whole answers come before a deadline, or a typed error.

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

from tenuto.features.topology import Address, Topology
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
        except BaseException as error:
            # The answer that is still to come must not meet the next request.
            line.close()
            if (named := _named(error, f"redis at {self._address}", timeout_ms)) is None:
                raise
            raise named from error
        idle.append(line)
        if isinstance(answer, hiredis.ReplyError):
            raise StoreUnavailableError(f"redis at {self._address}: {answer}")
        return cast("list[bytes | None]", answer)

    def close(self) -> None:
        """Close this process's idle connections; a later read connects again."""
        for line in self._idle.pop(os.getpid(), []):
            line.close()


class ClusterConnections:
    """Connections to the nodes of a cluster; thread-safe, and a forked child makes its own.

    Args:
        url: ``redis://`` or ``rediss://``, of any of its nodes.
        options: further options of ``redis.Redis.from_url`` (password, TLS).
    """

    def __init__(self, url: str, **options: Any) -> None:
        fixed = {"protocol": 2, "retry": Retry(NoBackoff(), 0)}
        self._pool = redis.ConnectionPool.from_url(url, **{**options, **fixed})
        parts = urlsplit(url)
        self._topology = Topology((parts.hostname or "localhost", parts.port or 6379))
        self._idle: dict[int, dict[Address, list[_Line]]] = {}

    def mget_each(
        self, asked: Sequence[tuple[int, Sequence[bytes]]], timeout_ms: float
    ) -> list[list[bytes | None]]:
        """Values of keys, slot by slot: every node is asked before any answer is waited for.

        A slot that has moved is followed, once.

        Raises:
            DeadlineExceededError: not all had come within ``timeout_ms``.
            StoreUnavailableError: a node cannot be reached, or refused.
        """
        deadline_s = time.monotonic() + timeout_ms / 1000.0
        try:
            nodes = self._nodes(asked, deadline_s)
            try:
                return self._ask(asked, nodes, deadline_s)
            except (OSError, redis.RedisError, hiredis.HiredisError) as error:
                self._topology.forget()
                if isinstance(error, (TimeoutError, redis.TimeoutError)):
                    raise
                moved = self._nodes(asked, deadline_s)
                if moved == nodes:
                    raise
                return self._ask(asked, moved, deadline_s)
        except BaseException as error:
            if (named := _named(error, "redis cluster", timeout_ms)) is None:
                raise
            raise named from error

    def close(self) -> None:
        """Close this process's idle connections; a later read connects again."""
        for lines in self._idle.pop(os.getpid(), {}).values():
            for line in lines:
                line.close()

    def _nodes(self, asked: Sequence[tuple[int, Any]], deadline_s: float) -> list[Address]:
        if not self._topology.is_known:
            self._learn(deadline_s)
        return [self._topology.node(slot) for slot, _ in asked]

    def _learn(self, deadline_s: float) -> None:
        failed: Exception | None = None
        for address in self._topology.addresses():
            line = self._line(address)
            try:
                answer = line.ask(deadline_s, "CLUSTER", "SLOTS")
            except (TimeoutError, redis.TimeoutError):
                line.close()
                self._topology.doubt(address)
                raise
            except (OSError, redis.RedisError, hiredis.HiredisError) as error:
                line.close()
                failed = error
                continue
            self._keep(address, line)
            if isinstance(answer, hiredis.ReplyError):
                raise redis.ResponseError(str(answer))
            self._topology.learn(answer, address)
            return
        raise redis.ConnectionError(f"no node answers: {failed}")

    def _ask(
        self,
        asked: Sequence[tuple[int, Sequence[bytes]]],
        nodes: Sequence[Address],
        deadline_s: float,
    ) -> list[list[bytes | None]]:
        lines = {address: self._line(address) for address in dict.fromkeys(nodes)}
        try:
            for address, line in lines.items():
                line.send(deadline_s, [
                    ("MGET", *keys)
                    for (_, keys), at in zip(asked, nodes, strict=True) if at == address
                ])  # fmt: skip
            # Answers of a node come in the order of its questions.
            answers = [lines[address].receive(deadline_s) for address in nodes]
        except BaseException:
            for line in lines.values():
                line.close()
            raise
        for address, line in lines.items():
            self._keep(address, line)
        for answer, address in zip(answers, nodes, strict=True):
            if isinstance(answer, hiredis.ReplyError):
                raise redis.ResponseError(f"{address[0]}:{address[1]}: {answer}")
        return answers

    def _line(self, address: Address) -> _Line:
        idle = self._idle.setdefault(os.getpid(), {}).setdefault(address, [])
        try:
            return idle.pop()
        except IndexError:
            return _Line(self._pool, address)

    def _keep(self, address: Address, line: _Line) -> None:
        self._idle.setdefault(os.getpid(), {}).setdefault(address, []).append(line)


def _named(error: BaseException, where: str, timeout_ms: float) -> Exception | None:
    """The error that a caller sees; None where that is the error itself."""
    if isinstance(error, (TimeoutError, redis.TimeoutError)):
        return DeadlineExceededError(f"{where}: no whole answer within {timeout_ms:g} ms")
    if isinstance(error, (OSError, redis.RedisError, hiredis.HiredisError)):
        return StoreUnavailableError(f"{where}: {error}")
    return None


class _Line:
    """One connection and the parser of what comes over it."""

    def __init__(self, pool: redis.ConnectionPool, address: Address | None = None) -> None:
        options = dict(pool.connection_kwargs)
        if address is not None:
            options["host"], options["port"] = address
        self._connection: Any = pool.connection_class(**options)
        self._reader = hiredis.Reader()
        self._buffer = bytearray(_RECEIVE_BYTES)

    def ask(self, deadline_s: float, *command: str | bytes) -> Any:
        """Send a command and receive its whole answer.

        Raises:
            TimeoutError, redis.TimeoutError: the deadline has passed.
            OSError, redis.RedisError: the connection broke, or could not be made.
        """
        self.send(deadline_s, [command])
        return self.receive(deadline_s)

    def send(self, deadline_s: float, commands: Sequence[Sequence[str | bytes]]) -> None:
        """Send commands, whose answers are received one by one, in their order."""
        packed = [part for one in commands for part in self._connection.pack_command(*one)]
        socket = self._socket(deadline_s)
        for part in packed:
            socket.settimeout(_left_s(deadline_s))
            socket.sendall(part)

    def receive(self, deadline_s: float) -> Any:
        """The whole answer of the next command."""
        reader, buffer, socket = self._reader, self._buffer, self._connection._sock
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
