"""One request on its way through the broker, and what an answer to it may be."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

Buffers = list[bytes | bytearray]

Reply = Buffers | asyncio.Future[Buffers] | None
"""The pieces of a response's body, now or later; None where none is sent (acks=0)."""


class MalformedError(Exception):
    """A request that cannot be what it says it is; its connection is closed, as in Kafka."""


@dataclass(slots=True)
class Call:
    """A request: its header, and where in the frame its body begins."""

    api_key: int
    version: int
    correlation_id: int
    client_id: str
    host: str
    frame: bytes
    at: int
