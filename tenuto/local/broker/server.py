"""Sockets: connections with one request at a time each, as in Kafka, so that answers keep order."""

from __future__ import annotations

import asyncio
import logging
import signal

from tenuto.local.broker import dispatch
from tenuto.local.broker.call import Buffers, Call, MalformedError
from tenuto.local.broker.framing import FrameError, Frames
from tenuto.local.broker.node import Node

log = logging.getLogger(__name__)

MAX_REQUEST_BYTES = 104_857_600
"""socket.request.max.bytes, Kafka's default."""


class Connection(asyncio.BufferedProtocol):
    """One client's connection.

    Args:
        node: answers.
        open_connections: it is in there while it lives.
    """

    def __init__(self, node: Node, open_connections: set[Connection]) -> None:
        self._node = node
        self._open = open_connections
        self._frames = Frames(MAX_REQUEST_BYTES)
        self._host = ""
        self._transport: asyncio.Transport | None = None
        # The answer that is not there yet, and whether the client is slow to read: in both cases
        # the next request waits.
        self._later: asyncio.Future[Buffers] | None = None
        self._full = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._host = (transport.get_extra_info("peername") or ("",))[0]
        self._open.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._open.discard(self)
        if self._later is not None:
            self._later.cancel()

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._frames.space()

    def buffer_updated(self, nbytes: int) -> None:
        self._frames.received(nbytes)
        self._serve()

    def pause_writing(self) -> None:
        self._full = True

    def resume_writing(self) -> None:
        self._full = False
        self._serve()

    def close(self) -> None:
        """Drop the connection."""
        if self._transport is not None:
            self._transport.abort()

    def _serve(self) -> None:
        try:
            while self._later is None and not self._full and self._transport is not None:
                frame = self._frames.next()
                if frame is None:
                    break
                self._answer(dispatch.parse(frame, self._host))
        except (FrameError, MalformedError) as error:
            log.warning("%s: %s: disconnected", self._host, error)
            self.close()
        except Exception:
            log.exception("%s: a request could not be answered: disconnected", self._host)
            self.close()
        self._read_on()

    def _read_on(self) -> None:
        """Read only while there is no request to come back to: a client must not fill memory."""
        if self._transport is None or self._transport.is_closing():
            return
        if self._frames.is_full:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()

    def _answer(self, call: Call) -> None:
        reply = dispatch.answer(self._node, call)
        if isinstance(reply, list):
            self._write(call, reply)
        elif reply is not None:
            self._later = reply
            reply.add_done_callback(lambda done: self._answer_now(call, done))

    def _answer_now(self, call: Call, done: asyncio.Future[Buffers]) -> None:
        self._later = None
        if done.cancelled():
            return
        if error := done.exception():
            log.error(
                "%s: a request could not be answered: disconnected", self._host, exc_info=error
            )
            self.close()
            return
        self._write(call, done.result())
        self._serve()

    def _write(self, call: Call, body: Buffers) -> None:
        if self._transport is not None:
            head = dispatch.header(call, sum(map(len, body)))
            self._transport.write(b"".join([head, *body]))


async def serve(host: str, port: int, partitions_default: int, retention_check_s: float) -> None:
    """Run the broker until SIGTERM or SIGINT."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    node = Node(host, port, partitions_default, loop)
    connections: set[Connection] = set()
    server = await loop.create_server(
        lambda: Connection(node, connections), host, port, reuse_address=True, backlog=512
    )
    log.info("cluster %s at %s:%d: memory only", node.cluster_id, host, port)
    retention = loop.create_task(_retain(node, retention_check_s))
    await stop.wait()
    retention.cancel()
    server.close()
    for connection in list(connections):
        connection.close()


async def _retain(node: Node, every_s: float) -> None:
    while True:
        await asyncio.sleep(every_s)
        node.topics.retain(node.now_ms())
