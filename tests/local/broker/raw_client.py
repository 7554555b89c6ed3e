"""A Kafka client without a client: requests of kafka-python's tables on a socket of one's own."""

from __future__ import annotations

import socket
import struct
from collections.abc import Mapping, Sequence
from typing import Any

from kafka.protocol.consumer import FetchRequest
from kafka.protocol.producer import ProduceRequest

TIMEOUT_S = 30.0


class RawClient:
    """One connection; a context manager."""

    def __init__(self, bootstrap: str) -> None:
        host, _, port = bootstrap.rpartition(":")
        self.socket = socket.create_connection((host, int(port)), timeout=TIMEOUT_S)
        self._correlation_id = 0

    def __enter__(self) -> RawClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, request: Any, version: int) -> None:
        """Send without waiting."""
        self._correlation_id += 1
        request.with_header(correlation_id=self._correlation_id, client_id="raw")
        self.socket.sendall(bytes(request.encode(version=version, header=True, framed=True)))

    def receive(self, request: Any, version: int) -> Any:
        """The answer to the last request."""
        answer = request.header.get_response_class().decode(
            self.frame(), version=version, header=True
        )
        assert answer.header.correlation_id == self._correlation_id
        return answer

    def ask(self, request: Any, version: int) -> Any:
        """Send and wait for the answer."""
        self.send(request, version)
        return self.receive(request, version)

    def frame(self) -> bytes:
        """The next frame."""
        (size,) = struct.unpack(">i", self._bytes(4))
        return self._bytes(size)

    def is_closed(self) -> bool:
        """Whether the other side ends the connection rather than answer."""
        try:
            return self.socket.recv(1) == b""
        except ConnectionError:
            return True

    def produce(
        self, topic: str, batches: Mapping[int, bytes], *, acks: int = -1, version: int = 8
    ) -> dict[int, Any]:
        """Produce a batch to each partition; answers by partition."""
        (answered,) = self.ask(produce_request(topic, batches, acks), version).responses
        return {one.index: one for one in answered.partition_responses}

    def fetch(self, topic: str, offsets: Mapping[int, int], **options: Any) -> dict[int, Any]:
        """Fetch; answers by partition."""
        request = fetch_request(topic, offsets, **options)
        self.send(request, 11)
        return self.fetched(request)

    def fetched(self, request: Any) -> dict[int, Any]:
        """The answer to a fetch that was sent before, by partition."""
        (answered,) = self.receive(request, 11).responses
        return {one.partition_index: one for one in answered.partitions}

    def _bytes(self, size: int) -> bytes:
        got = b""
        while len(got) < size:
            piece = self.socket.recv(size - len(got))
            if not piece:
                raise ConnectionError("the broker has closed the connection")
            got += piece
        return got


def produce_request(topic: str, batches: Mapping[int, bytes], acks: int = -1) -> Any:
    topic_class = ProduceRequest.TopicProduceData
    return ProduceRequest(
        transactional_id=None,
        acks=acks,
        timeout_ms=10_000,
        topic_data=[
            topic_class(
                name=topic,
                partition_data=[
                    topic_class.PartitionProduceData(index=index, records=records)
                    for index, records in batches.items()
                ],
            )
        ],
    )


def fetch_request(
    topic: str,
    offsets: Mapping[int, int],
    *,
    max_wait_ms: int = 0,
    min_bytes: int = 1,
    max_bytes: int = 1 << 20,
    partition_max_bytes: int = 1 << 20,
    order: Sequence[int] | None = None,
) -> Any:
    topic_class = FetchRequest.FetchTopic
    return FetchRequest(
        replica_id=-1,
        max_wait_ms=max_wait_ms,
        min_bytes=min_bytes,
        max_bytes=max_bytes,
        isolation_level=0,
        session_id=0,
        session_epoch=-1,
        topics=[
            topic_class(
                topic=topic,
                partitions=[
                    topic_class.FetchPartition(
                        partition=index,
                        current_leader_epoch=-1,
                        fetch_offset=offsets[index],
                        log_start_offset=-1,
                        partition_max_bytes=partition_max_bytes,
                    )
                    for index in (order or offsets)
                ],
            )
        ],
        forgotten_topics_data=[],
        rack_id="",
    )
