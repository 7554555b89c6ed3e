"""A script in Redis whose calls are packed by the caller: bytes in, reply out.

redis-py packs a command argument by argument, which costs more than Redis takes to run it.
"""

from __future__ import annotations

import hashlib
from typing import Any

import redis
from redis.exceptions import NoScriptError


class PackedScript:
    """A Lua script, loaded where Redis does not know it.

    Args:
        client: its connection pool and its retries are used.
        text: of the script.
    """

    def __init__(self, client: redis.Redis, text: str) -> None:
        self._pool = client.connection_pool
        self._text = text
        sha = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest().encode()
        self._name = b"$7\r\nEVALSHA" + argument(sha)

    def __call__(self, n_keys: int, n_arguments: int, packed: bytes) -> Any:
        """Run it.

        Args:
            n_keys, n_arguments: how many keys and other arguments there are.
            packed: all of them, keys first, each as ``argument`` makes it.

        Raises:
            redis.RedisError: as for any command; what was sent may have been executed.
        """
        return self.send(n_keys, n_arguments, packed).reply()

    def send(self, n_keys: int, n_arguments: int, packed: bytes) -> SentCall:
        """Send it without waiting; arguments and errors as for a call."""
        head = b"*%d\r\n%b%b" % (3 + n_keys + n_arguments, self._name, argument(b"%d" % n_keys))
        return SentCall(self._pool, self._text, [b"%b%b\r\n" % (head, packed)])


class SentCall:
    """A call whose reply is still to come: ``reply`` or ``give_up`` must follow.

    Args:
        pool: of connections.
        text: of the script, for a Redis that does not know it.
        command: as it is sent.
    """

    def __init__(self, pool: Any, text: str, command: list[bytes]) -> None:
        self._pool = pool
        self._text = text
        self._command = command
        self._connection: Any = pool.get_connection()
        self._sent = True
        self._failed: redis.RedisError | None = None
        try:
            self._connection.send_packed_command(command)
        except redis.RedisError as error:
            # Whether it may be tried again is decided where the reply is waited for.
            self._failed = error

    def reply(self) -> Any:
        connection = self._connection
        try:
            return connection.retry.call_with_retry(self._read, lambda _: connection.disconnect())
        finally:
            self._pool.release(connection)

    def give_up(self) -> None:
        """Without its reply: whether it was executed is not known."""
        self._connection.disconnect()
        self._pool.release(self._connection)

    def _read(self) -> Any:
        connection = self._connection
        failed, self._failed = self._failed, None
        sent, self._sent = self._sent, False
        if failed is not None:
            raise failed
        if not sent:
            # Another try.
            connection.send_packed_command(self._command)
        try:
            return connection.read_response()
        except NoScriptError:
            connection.send_command("SCRIPT", "LOAD", self._text)
            connection.read_response()
            connection.send_packed_command(self._command)
            return connection.read_response()


def argument(value: bytes) -> bytes:
    """One argument as it stands in a command after another one."""
    return b"\r\n$%d\r\n%b" % (len(value), value)
