"""What the broker knows: the state that every request handler is given."""

from __future__ import annotations

import asyncio
import base64
import secrets
import time
import uuid
from itertools import count

from tenuto.local.broker.coordinator import Coordinator
from tenuto.local.broker.topics import Topics

NODE_ID = 1


class Node:
    """The only node of the cluster.

    Args:
        host, port: where clients are told to connect.
        partitions_default: of a topic that is created without a number.
        loop: runs the waits of fetches and groups.

    Attributes:
        cluster_id: new at each start: what was there before is gone.
        producer_ids: the next one for an idempotent producer; others at each start.
    """

    def __init__(
        self, host: str, port: int, partitions_default: int, loop: asyncio.AbstractEventLoop
    ) -> None:
        self.host = host
        self.port = port
        self.loop = loop
        self.cluster_id = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        self.topics = Topics(partitions_default)
        self.coordinator = Coordinator(loop)
        # A producer that outlives a start keeps the id of before: nobody else may be given it, or
        # the records of one are taken for doubles of the other's.
        self.producer_ids = count(secrets.randbits(48) << 12)

    @staticmethod
    def now_ms() -> int:
        """Wall clock, ms: what records are stamped with."""
        return time.time_ns() // 1_000_000
