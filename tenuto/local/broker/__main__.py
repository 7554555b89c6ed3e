"""``python -m tenuto.local.broker``: the broker as a process of its own."""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging

from tenuto.local.broker.server import serve


def main() -> None:
    """Run until SIGTERM."""
    parser = argparse.ArgumentParser(
        prog="tenuto.local.broker",
        description="A Kafka broker of one node that keeps its log in memory.",
    )
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=9092)
    parser.add_argument(
        "--partitions", type=int, default=1, help="of a topic that is created without a number"
    )
    parser.add_argument(
        "--retention-check-s", type=float, default=5.0, help="how often old records are dropped"
    )
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    # What is imported by now stays: the collector need not look at it again.
    gc.freeze()
    asyncio.run(serve(options.host, options.port, options.partitions, options.retention_check_s))


if __name__ == "__main__":
    main()
