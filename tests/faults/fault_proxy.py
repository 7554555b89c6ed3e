"""A TCP proxy on loopback whose connections can be cut, refused and delayed."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from tenuto.local.processes import free_port


class Proxy:
    """Passes bytes between clients and one server on loopback, in a thread of its own."""

    def __init__(self, target_port: int) -> None:
        self.port = free_port()
        self._target_port = target_port
        self._delay_s = 0.0
        self._refuses = False
        self._writers: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True, name="proxy")
        self._thread.start()
        serving = asyncio.run_coroutine_threadsafe(self._serve(), self._loop)
        self._server = serving.result(10.0)

    def cut(self) -> None:
        """Reset every connection; new ones are taken."""
        self._soon(self._cut)

    def refuse(self, refuses: bool) -> None:
        """Reset every connection, and new ones at once, until told otherwise."""
        self._refuses = refuses
        if refuses:
            self.cut()

    def delay(self, seconds: float) -> None:
        """Hold every piece of data back for so long."""
        self._delay_s = seconds

    def close(self) -> None:
        """Cut everything and stop listening."""
        self._soon(self._server.close)
        self._soon(self._cut)
        asyncio.run_coroutine_threadsafe(self._cancel(), self._loop).result(5.0)
        self._soon(self._loop.stop)
        self._thread.join(5.0)

    def _soon(self, action: Callable[[], Any]) -> None:
        done: Future[None] = Future()

        def call() -> None:
            action()
            done.set_result(None)

        self._loop.call_soon_threadsafe(call)
        with contextlib.suppress(TimeoutError):
            done.result(5.0)

    def _cut(self) -> None:
        for writer in self._writers:
            sock = writer.get_extra_info("socket")
            if sock is not None:
                # Closed with a reset, as when the other machine has gone.
                with contextlib.suppress(OSError):
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
        self._writers.clear()

    async def _cancel(self) -> None:
        own = asyncio.current_task()
        tasks = [task for task in asyncio.all_tasks() if task is not own]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self) -> asyncio.Server:
        return await asyncio.start_server(self._connected, "127.0.0.1", self.port)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._refuses:
            writer.transport.abort()
            return
        try:
            far = await asyncio.open_connection("127.0.0.1", self._target_port)
        except OSError:
            writer.transport.abort()
            return
        both = {writer, far[1]}
        self._writers |= both
        await asyncio.gather(self._pump(reader, far[1]), self._pump(far[0], writer))
        for one in both:
            one.transport.abort()
        self._writers -= both

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(1 << 16):
                if self._delay_s:
                    await asyncio.sleep(self._delay_s)
                writer.write(data)
                await writer.drain()
            writer.write_eof()
        except (OSError, RuntimeError):
            writer.transport.abort()
