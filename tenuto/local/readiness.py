"""Whether a broker or a Redis serves yet, asked through the clients that will use it."""

from __future__ import annotations

import socket
import struct
from typing import Any

from kafka import KafkaAdminClient
from kafka.errors import KafkaError
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

# length 10, ApiVersions (18) version 0, correlation id 1, no client id
_API_VERSIONS = struct.pack(">ihhih", 10, 18, 0, 1, -1)


def broker_answers(port: int) -> bool:
    """Whether the broker on the loopback port answers a metadata request and names a broker."""
    # A KafkaAdminClient whose bootstrap fails leaves its I/O thread behind and fills the log, and a
    # booting Kafka accepts connections seconds before it answers: so ask by hand first.
    if not _answers_api_versions(port):
        return False
    try:
        with KafkaAdminClient(
            bootstrap_servers=f"127.0.0.1:{port}", bootstrap_timeout_ms=5_000
        ) as admin:
            return bool(admin.describe_cluster()["brokers"])
    except KafkaError:
        return False


def redis_answers(port: int, pid: int) -> bool:
    """Whether the Redis on the loopback port answers PING and is the process ``pid``."""
    try:
        with Redis(
            host="127.0.0.1", port=port, socket_timeout=1.0, retry=Retry(NoBackoff(), 0)
        ) as client:
            client.ping()
            server: Any = client.info("server")
    except RedisError:
        return False
    return int(server["process_id"]) == pid


def _answers_api_versions(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1.0) as connection:
            connection.sendall(_API_VERSIONS)
            return len(connection.recv(8)) > 0
    except OSError:
        return False
