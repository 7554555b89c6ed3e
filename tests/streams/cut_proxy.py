"""A TCP proxy before a Redis that loses replies: the command is applied, and nobody hears of it."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable


class CutProxy:
    """Forwards to ``port``; of the connections that carry a command it is told to, cuts the reply.

    Args:
        port: of the server, on loopback.
        lose: asked with the bytes of each command; True cuts the connection in place of the reply.
    """

    def __init__(self, port: int, lose: Callable[[bytes], bool]) -> None:
        self._server_port = port
        self._lose = lose
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self.cuts = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Accept nothing more."""
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._forward, args=(client,), daemon=True).start()

    def _forward(self, client: socket.socket) -> None:
        """Request and reply, one after the other: what the store's writer does."""
        with client, socket.create_connection(("127.0.0.1", self._server_port)) as server:
            client.settimeout(0.02)
            server.settimeout(0.02)
            lose = False
            while True:
                if (asked := _received(client)) == b"":
                    return
                if asked:
                    lose = lose or self._lose(asked)
                    server.sendall(asked)
                if (answer := _received(server)) == b"":
                    return
                if answer:
                    if lose:
                        self.cuts += 1
                        return
                    client.sendall(answer)


def _received(connection: socket.socket) -> bytes | None:
    """What has come; None for nothing yet, empty for closed."""
    try:
        return connection.recv(1 << 20)
    except TimeoutError:
        return None
    except OSError:
        return b""
