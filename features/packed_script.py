"""A script in Redis whose calls are packed by the caller: bytes in, reply out.

redis-py packs a command argument by argument, which costs more than Redis takes to run it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import redis
from redis.exceptions import NoScriptError

# As many as Redis takes from the socket in one piece, about: it runs these one after the other.
_AHEAD = 3


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

    def run(
        self, calls: list[tuple[int, bytes]], n_arguments: int, accept: Callable[[Any], None]
    ) -> None:
        """Run it once for each call, in their order; a call leaves the list once it is accepted.

        A few calls are sent ahead of the reply that is awaited: Redis need not wait for this
        process to be given its turn, and readers wait for these few scripts at most.

        Args:
            calls: the number of keys, and keys and arguments, each as ``argument`` makes it.
            n_arguments: how many arguments follow the keys.
            accept: told of each reply; may raise, and what was sent ahead is then executed too.

        Raises:
            redis.RedisError: as for any command; what was sent may have been executed.
        """
        connection: Any = self._pool.get_connection()
        whole = False
        try:
            connection.retry.call_with_retry(
                lambda: self._run(connection, calls, n_arguments, accept),
                lambda _: connection.disconnect(),
            )
            whole = True
        finally:
            if not whole:
                # A reply to what was sent ahead may be on its way, and is nobody's.
                connection.disconnect()
            self._pool.release(connection)

    def _run(
        self,
        connection: Any,
        calls: list[tuple[int, bytes]],
        n_arguments: int,
        accept: Callable[[Any], None],
    ) -> None:
        sent = 0
        while calls:
            for n_keys, packed in calls[sent : 1 + _AHEAD]:
                head = b"*%d\r\n%b" % (3 + n_keys + n_arguments, self._name)
                head += argument(b"%d" % n_keys)
                connection.send_packed_command([b"%b%b\r\n" % (head, packed)])
                sent += 1
            try:
                reply = connection.read_response()
            except NoScriptError:
                # Nor did what was sent ahead find it.
                for _ in range(sent - 1):
                    with suppress(NoScriptError):
                        connection.read_response()
                connection.send_command("SCRIPT", "LOAD", self._text)
                connection.read_response()
                sent = 0
                continue
            accept(reply)
            del calls[0]
            sent -= 1


def argument(value: bytes) -> bytes:
    """One argument as it stands in a command after another one."""
    return b"\r\n$%d\r\n%b" % (len(value), value)
