"""``fault_broker.py PORT ADVERTISED PARTITIONS``: the embedded broker behind another port."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from tenuto.local.broker import server

if __name__ == "__main__":
    port, advertised, partitions = map(int, sys.argv[1:])
    Node = server.Node

    def node(host: str, port: int, *arguments: Any) -> Any:
        return Node(host, advertised, *arguments)

    server.Node = node  # type: ignore[misc, assignment]
    asyncio.run(server.serve("127.0.0.1", port, partitions, 1.0))
