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
        head = b"*%d\r\n%b%b" % (3 + n_keys + n_arguments, self._name, argument(b"%d" % n_keys))
        command = [b"%b%b\r\n" % (head, packed)]
        connection: Any = self._pool.get_connection()
        try:
            return connection.retry.call_with_retry(
                lambda: self._run(connection, command), lambda _: connection.disconnect()
            )
        finally:
            self._pool.release(connection)

    def _run(self, connection: Any, command: list[bytes]) -> Any:
        connection.send_packed_command(command)
        try:
            return connection.read_response()
        except NoScriptError:
            connection.send_command("SCRIPT", "LOAD", self._text)
            connection.read_response()
            connection.send_packed_command(command)
            return connection.read_response()


def argument(value: bytes) -> bytes:
    """One argument as it stands in a command after another one."""
    return b"\r\n$%d\r\n%b" % (len(value), value)
