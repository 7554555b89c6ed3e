"""What a broker makes of bytes that are no request: that connection ends, and nothing else."""

from __future__ import annotations

import os
import random
import signal
import socket
import struct
import uuid
from collections.abc import Callable

import pytest
from kafka import KafkaAdminClient
from kafka.errors import InvalidPartitionsError
from kafka.protocol.metadata import ApiVersionsRequest, ApiVersionsResponse
from raw_client import RawClient, fetch_request, produce_request
from record_batches import batch

from tenuto import local
from tenuto.local.broker.errors import Code

pytestmark = pytest.mark.stack
MakeTopic = Callable[..., str]


def request(api_key: int, version: int, body: bytes = b"", client_id: bytes = b"raw") -> bytes:
    frame = struct.pack(">hhih", api_key, version, 7, len(client_id)) + client_id + body
    return struct.pack(">i", len(frame)) + frame


@pytest.mark.parametrize(
    "garbage",
    [
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        struct.pack(">i", -1),
        struct.pack(">i", 2**31 - 1),
        struct.pack(">i", 4) + b"\0\0\0\0",
        request(12345, 0),
        request(3, 99),
        request(0, 7, os.urandom(200)),
        request(1, 11, b"\xff" * 40),
        request(11, 5, b"\x7f\xff" * 20),
        request(3, 9, b"\x01" * 3),
    ],
    ids=[
        "http",
        "negative length",
        "huge length",
        "half a header",
        "unknown kind",
        "unknown version",
        "produce",
        "fetch",
        "join",
        "tagged fields",
    ],
)
def test_garbage_ends_its_own_connection_only(bootstrap: str, garbage: bytes) -> None:
    with RawClient(bootstrap) as bystander, RawClient(bootstrap) as client:
        client.socket.sendall(garbage)
        assert client.is_closed()
        for alive in (bystander, RawClient(bootstrap)):
            with alive:
                assert alive.ask(ApiVersionsRequest(), 0).error_code == Code.NONE


def test_no_body_of_any_kind_and_version_ends_the_broker(embedded: local.LocalStack) -> None:
    noise = random.Random(7)
    with RawClient(embedded.bootstrap) as asker:
        kinds = asker.ask(ApiVersionsRequest(), 0).api_keys
    for api in kinds:
        for version in range(api.min_version, api.max_version + 1):
            for body in (b"", b"\0" * 80, noise.randbytes(80)):
                with RawClient(embedded.bootstrap) as client:
                    client.socket.sendall(request(api.api_key, version, body))
                    client.socket.shutdown(socket.SHUT_WR)
    with RawClient(embedded.bootstrap) as client:
        assert client.ask(ApiVersionsRequest(), 0).error_code == Code.NONE
    assert embedded.is_alive()


def test_half_a_frame_and_no_more_harms_nobody(bootstrap: str) -> None:
    for _ in range(20):
        with RawClient(bootstrap) as client:
            client.socket.sendall(request(18, 0)[:-2])
    with RawClient(bootstrap) as client:
        client.socket.sendall(request(18, 0)[:3])
        client.socket.sendall(request(18, 0)[3:])
        assert len(client.frame()) > 10


def test_an_unknown_version_of_apiversions_is_answered_in_the_oldest(bootstrap: str) -> None:
    with RawClient(bootstrap) as client:
        client.socket.sendall(request(18, 99, b"\0"))
        answer = ApiVersionsResponse.decode(client.frame(), version=0, header=True)
        assert answer.error_code == Code.UNSUPPORTED_VERSION
        assert 18 in {api.api_key for api in answer.api_keys}
        known = ApiVersionsRequest(client_software_name="raw", client_software_version="1")
        assert client.ask(known, 3).error_code == Code.NONE


def test_requests_sent_at_once_are_answered_in_their_order(
    bootstrap: str, make_topic: MakeTopic
) -> None:
    topic = make_topic()
    with RawClient(bootstrap) as client:
        parked = fetch_request(topic, {0: 0}, max_wait_ms=300)
        client.send(parked, 11)
        client.socket.sendall(b"".join(request(18, 0) for _ in range(50)))
        assert struct.unpack(">i", client.frame()[:4]) == (parked.header.correlation_id,)
        for _ in range(50):
            assert struct.unpack(">i", client.frame()[:4]) == (7,)


def test_clients_that_vanish_while_they_wait_leave_nothing_behind(
    bootstrap: str, make_topic: MakeTopic
) -> None:
    topic = make_topic()
    for _ in range(20):
        with RawClient(bootstrap) as client:
            client.send(fetch_request(topic, {0: 0}, max_wait_ms=600_000), 11)
    with RawClient(bootstrap) as client:
        answered = client.produce(topic, {0: batch([b"x"])})[0]
        assert (answered.error_code, answered.base_offset) == (Code.NONE, 0)


def test_a_client_that_does_not_read_keeps_nobody_else_waiting(
    bootstrap: str, make_topic: MakeTopic
) -> None:
    topic = make_topic()
    with RawClient(bootstrap) as slow, RawClient(bootstrap) as client:
        client.produce(topic, {0: batch([os.urandom(1_000_000)])})
        # More than the sockets' buffers hold.
        requests = [fetch_request(topic, {0: 0}, max_bytes=1 << 21) for _ in range(30)]
        for one in requests:
            slow.send(one, 11)
        answered = client.produce(topic, {0: batch([b"x"])})[0]
        assert answered.error_code == Code.NONE
        for _ in requests:
            assert len(slow.frame()) > 1_000_000


def test_a_produce_without_acknowledgement_that_is_refused_ends_the_connection(
    bootstrap: str,
) -> None:
    with RawClient(bootstrap) as client:
        client.send(produce_request("nothing", {0: batch([b"x"])}, acks=0), 8)
        assert client.is_closed()


def test_a_broker_that_starts_again_is_another_cluster_with_other_topics() -> None:
    lives = []
    with local.start("embedded", redis=False) as stack:
        for _ in range(2):
            with KafkaAdminClient(bootstrap_servers=stack.bootstrap) as admin:
                assert admin.list_topics() == []
                admin.create_topics({"a": {"num_partitions": 1, "replication_factor": 1}})
                (described,) = admin.describe_topics(["a"])
                lives.append((admin.describe_cluster()["cluster_id"], described["topic_id"]))
            stack.restart_broker()
    (first_cluster, first_topic), (second_cluster, second_topic) = lives
    assert first_cluster != second_cluster
    assert uuid.UUID(str(first_topic)) != uuid.UUID(str(second_topic))


def test_sigterm_ends_it_cleanly_with_clients_that_wait() -> None:
    with local.start("embedded", redis=False) as stack, RawClient(stack.bootstrap) as client:
        with KafkaAdminClient(bootstrap_servers=stack.bootstrap) as admin:
            admin.create_topics({"a": {"num_partitions": 1, "replication_factor": 1}})
        client.send(fetch_request("a", {0: 0}, max_wait_ms=600_000), 11)
        os.kill(stack.broker_pid, signal.SIGTERM)
        assert client.is_closed()
        status = stack._broker._bound.process.wait(10)
        assert status == 0
        assert "Traceback" not in stack.broker_log.read_text()


@pytest.mark.parametrize(
    ("api_key", "version", "body"),
    [
        # Two thousand million topics of a name that ends where it begins.
        (0, 8, struct.pack(">hhiihi", -1, -1, 1, 2**31 - 1, -6, 0) + bytes(16)),
        (1, 11, struct.pack(">iiiibiiiihi", -1, 0, 0, 9, 0, 0, -1, 0, 2**31 - 1, 0, -2) + bytes(8)),
        # Topics to forget, with fewer partitions than none.
        (15, 3, struct.pack(">i", -1) + b"\0"),
    ],
    ids=["produce", "fetch", "null"],
)
def test_a_count_that_leads_back_ends_the_connection_and_not_the_broker(
    embedded: local.LocalStack, api_key: int, version: int, body: bytes
) -> None:
    with RawClient(embedded.bootstrap) as client:
        client.socket.sendall(request(api_key, version, body))
        assert client.is_closed()
    with RawClient(embedded.bootstrap) as client:
        assert client.ask(ApiVersionsRequest(), 0).error_code == Code.NONE


def test_more_partitions_than_memory_has_are_refused(embedded: local.LocalStack) -> None:
    with KafkaAdminClient(bootstrap_servers=embedded.bootstrap) as admin:
        wanted = {"num_partitions": 2**31 - 1, "replication_factor": 1}
        with pytest.raises(InvalidPartitionsError, match="at most"):
            admin.create_topics({f"t-{uuid.uuid4().hex[:10]}": wanted})
