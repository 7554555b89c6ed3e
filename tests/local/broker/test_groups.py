"""Groups through brokers: unmodified clients, and requests that no client would send."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer
from kafka import KafkaAdminClient, KafkaConsumer, TopicPartition
from kafka.protocol.admin import DescribeGroupsRequest
from kafka.protocol.consumer import (
    HeartbeatRequest,
    JoinGroupRequest,
    LeaveGroupRequest,
    OffsetCommitRequest,
    OffsetFetchRequest,
    SyncGroupRequest,
)
from kafka.protocol.metadata import FindCoordinatorRequest
from kafka.structs import OffsetAndMetadata
from raw_client import RawClient

from tenuto import local
from tenuto.local.broker.errors import Code

pytestmark = pytest.mark.stack
MakeTopic = Callable[..., str]
SESSION_MS = 6_000
NOT_COORDINATOR = 16


@pytest.fixture
def group(bootstrap: str) -> str:
    name = f"g-{uuid.uuid4().hex[:10]}"
    with Member(bootstrap, name) as nobody:
        # Apache Kafka's coordinator is not there before somebody has looked for it.
        while nobody.found_coordinator() or nobody.heartbeat() == NOT_COORDINATOR:
            pass
    return name


class Member(RawClient):
    """A member by hand, on a connection of its own."""

    def __init__(self, bootstrap: str, group: str, instance: str | None = None) -> None:
        super().__init__(bootstrap)
        self.group, self.instance = group, instance
        self.id, self.generation = "", -1

    def found_coordinator(self) -> int:
        """Error code of a search for it."""
        request = FindCoordinatorRequest(key_type=0, coordinator_keys=[self.group])
        return int(self.ask(request, 4).coordinators[0].error_code)

    def join_request(self) -> Any:
        return JoinGroupRequest(
            group_id=self.group,
            session_timeout_ms=SESSION_MS,
            rebalance_timeout_ms=20_000,
            member_id=self.id,
            group_instance_id=self.instance,
            protocol_type="consumer",
            protocols=[JoinGroupRequest.JoinGroupRequestProtocol(name="range", metadata=b"m")],
            reason=None,
        )

    def join(self, version: int = 9) -> Any:
        answer = self.ask(self.join_request(), version)
        if answer.error_code == Code.MEMBER_ID_REQUIRED:
            self.id = answer.member_id
            answer = self.ask(self.join_request(), version)
        self.id, self.generation = answer.member_id, answer.generation_id
        return answer

    def sync(self, assignments: dict[str, bytes] | None = None) -> Any:
        return self.ask(
            SyncGroupRequest(
                group_id=self.group,
                generation_id=self.generation,
                member_id=self.id,
                group_instance_id=self.instance,
                protocol_type="consumer",
                protocol_name="range",
                assignments=[
                    SyncGroupRequest.SyncGroupRequestAssignment(member_id=id, assignment=each)
                    for id, each in (assignments or {}).items()
                ],
            ),
            5,
        )

    def heartbeat(self, generation: int | None = None) -> int:
        request = HeartbeatRequest(
            group_id=self.group,
            generation_id=self.generation if generation is None else generation,
            member_id=self.id,
            group_instance_id=self.instance,
        )
        return int(self.ask(request, 4).error_code)

    def commit(self, topic: str, offset: int, metadata: str = "", generation: int = -2) -> int:
        topic_class = OffsetCommitRequest.OffsetCommitRequestTopic
        request = OffsetCommitRequest(
            group_id=self.group,
            generation_id_or_member_epoch=self.generation if generation == -2 else generation,
            member_id=self.id,
            group_instance_id=self.instance,
            topics=[
                topic_class(
                    name=topic,
                    partitions=[
                        topic_class.OffsetCommitRequestPartition(
                            partition_index=0,
                            committed_offset=offset,
                            committed_leader_epoch=-1,
                            committed_metadata=metadata,
                        )
                    ],
                )
            ],
        )
        return int(self.ask(request, 8).topics[0].partitions[0].error_code)

    def state(self) -> tuple[str, int]:
        """State of the group, and how many members it has."""
        request = DescribeGroupsRequest(groups=[self.group], include_authorized_operations=False)
        (described,) = self.ask(request, 5).groups
        return described.group_state, len(described.members)


def test_the_codes_of_a_members_life(bootstrap: str, group: str, make_topic: MakeTopic) -> None:
    topic = make_topic()
    with Member(bootstrap, group) as member:
        assert member.heartbeat(1) == Code.UNKNOWN_MEMBER_ID
        assert member.join().leader == member.id
        assert member.commit(topic, 1) == Code.REBALANCE_IN_PROGRESS
        synced = member.sync({member.id: b"mine"})
        assert (synced.error_code, synced.assignment) == (Code.NONE, b"mine")
        assert member.heartbeat() == Code.NONE
        assert member.heartbeat(member.generation + 1) == Code.ILLEGAL_GENERATION
        assert member.commit(topic, 7) == Code.NONE
        assert member.commit(topic, 9, generation=member.generation - 1) == Code.ILLEGAL_GENERATION
        assert member.commit("nothing", 7) == Code.UNKNOWN_TOPIC_OR_PARTITION
        assert member.commit(topic, 9, "x" * 5_000) == Code.OFFSET_METADATA_TOO_LARGE
        assert member.state() == ("Stable", 1)
        left = member.ask(
            LeaveGroupRequest(
                group_id=group,
                members=[
                    LeaveGroupRequest.MemberIdentity(
                        member_id=member.id, group_instance_id=None, reason=None
                    )
                ],
            ),
            5,
        )
        assert left.members[0].error_code == Code.NONE
        assert member.heartbeat() == Code.UNKNOWN_MEMBER_ID
        assert member.state() == ("Empty", 0)


def test_somebody_without_membership_commits_only_while_there_are_no_members(
    bootstrap: str, group: str, make_topic: MakeTopic
) -> None:
    topic = make_topic()
    with Member(bootstrap, group) as outsider, Member(bootstrap, group) as member:
        assert outsider.commit(topic, 3, generation=-1) == Code.NONE
        member.join()
        member.sync({member.id: b""})
        assert outsider.commit(topic, 4, generation=-1) == Code.UNKNOWN_MEMBER_ID
        nowhere = Member(bootstrap, f"{group}x")
        nowhere.id = "somebody"
        with nowhere:
            assert nowhere.commit(topic, 4, generation=1) != Code.NONE


def test_commits_are_told_with_their_metadata_in_every_version(
    bootstrap: str, group: str, make_topic: MakeTopic
) -> None:
    topic = make_topic(partitions=2)
    consumer = KafkaConsumer(bootstrap_servers=bootstrap, group_id=group)
    at = TopicPartition(topic, 0)
    consumer.commit({at: OffsetAndMetadata(12, "where I was: ☂", -1)})
    assert consumer.committed(at, metadata=True) == OffsetAndMetadata(12, "where I was: ☂", -1)
    assert consumer.committed(TopicPartition(topic, 1)) is None
    consumer.close()
    topic_class = OffsetFetchRequest.OffsetFetchRequestTopic
    with RawClient(bootstrap) as client:
        for version in range(2, 8):
            for topics in (None, [topic_class(name=topic, partition_indexes=[0])]):
                request = OffsetFetchRequest(group_id=group, topics=topics, require_stable=False)
                (answered,) = client.ask(request, version).topics
                (one,) = answered.partitions
                assert (one.committed_offset, one.metadata) == (12, "where I was: ☂")


def test_a_deleted_topics_commits_are_gone(
    bootstrap: str, group: str, make_topic: MakeTopic, admin: KafkaAdminClient
) -> None:
    topic = make_topic()
    consumer = KafkaConsumer(bootstrap_servers=bootstrap, group_id=group)
    at = TopicPartition(topic, 0)
    consumer.commit({at: OffsetAndMetadata(12, "", -1)})
    admin.delete_topics([topic])
    request = OffsetFetchRequest(group_id=group, topics=None, require_stable=False)
    with RawClient(bootstrap) as client:
        # Apache Kafka's coordinator hears of it a little later.
        while client.ask(request, 7).topics:
            pass
    consumer.close()


def test_a_closed_connection_evicts_nobody_but_the_session_does(bootstrap: str, group: str) -> None:
    with Member(bootstrap, group) as gone:
        gone.join()
        gone.sync({gone.id: b""})
    with Member(bootstrap, group) as watcher:
        assert watcher.state() == ("Stable", 1)
        while watcher.state() != ("Empty", 0):
            pass


def test_a_static_member_comes_back_to_its_assignment_and_fences_who_it_was(
    bootstrap: str, group: str
) -> None:
    with (
        Member(bootstrap, group, "one") as before,
        Member(bootstrap, group, "one") as after,
    ):
        before.join()
        before.sync({before.id: b"mine"})
        joined = after.join()
        assert (joined.error_code, joined.generation_id) == (Code.NONE, before.generation)
        assert (joined.skip_assignment, after.id != before.id) == (True, True)
        synced = after.sync()
        assert (synced.error_code, synced.assignment) == (Code.NONE, b"mine")
        assert before.heartbeat() == Code.FENCED_INSTANCE_ID
        assert before.join().error_code == Code.FENCED_INSTANCE_ID
        assert after.heartbeat() == Code.NONE


async def assigned(consumers: list[AIOKafkaConsumer], n_partitions: int) -> list[int]:
    """How many partitions each has, once all are given out and everybody has some."""
    for _ in range(600):
        counts = [len(consumer.assignment()) for consumer in consumers]
        if sum(counts) == n_partitions and all(counts):
            return counts
        await asyncio.sleep(0.1)
    raise AssertionError(f"not assigned: {counts}")


async def test_partitions_are_shared_anew_as_members_come_and_leave(
    bootstrap: str, group: str, make_topic: MakeTopic
) -> None:
    topic = make_topic(partitions=4)

    def member() -> AIOKafkaConsumer:
        return AIOKafkaConsumer(
            topic,
            bootstrap_servers=bootstrap,
            group_id=group,
            session_timeout_ms=SESSION_MS,
            heartbeat_interval_ms=200,
        )

    first, second = member(), member()
    await first.start()
    assert await assigned([first], 4) == [4]
    await second.start()
    assert await assigned([first, second], 4) == [2, 2]
    await first.stop()
    assert await assigned([second], 4) == [4]
    await second.stop()


# kafka-python loses an assignment for good where it joins anew because a topic's partitions became
# known, and poll() runs out of time before the answer: need_rejoin() no longer says so then. A
# consumer that knows the partitions before it subscribes has no reason to join anew.
CONSUMER = """
import sys
from kafka import KafkaConsumer
bootstrap, group, topic = sys.argv[1:]
consumer = KafkaConsumer(
    bootstrap_servers=bootstrap, group_id=group,
    session_timeout_ms=6_000, heartbeat_interval_ms=500,
)
while not consumer.partitions_for_topic(topic):
    pass
consumer.subscribe([topic])
while True:
    consumer.poll(timeout_ms=200)
    print(len(consumer.assignment()), flush=True)
"""


async def test_a_killed_members_partitions_are_taken_over(
    bootstrap: str, group: str, make_topic: MakeTopic
) -> None:
    topic = make_topic(partitions=4)
    process = subprocess.Popen(  # noqa: ASYNC220
        [sys.executable, "-c", CONSUMER, bootstrap, group, topic],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        while await asyncio.to_thread(process.stdout.readline) != "4\n":
            assert process.poll() is None
        os.kill(process.pid, signal.SIGKILL)
        survivor = AIOKafkaConsumer(
            topic,
            bootstrap_servers=bootstrap,
            group_id=group,
            session_timeout_ms=SESSION_MS,
            heartbeat_interval_ms=200,
        )
        await survivor.start()
        assert await assigned([survivor], 4) == [4]
        await survivor.stop()
    finally:
        process.kill()
        process.communicate()


def test_groups_are_listed_described_and_deleted(
    bootstrap: str, group: str, make_topic: MakeTopic, admin: KafkaAdminClient
) -> None:
    topic = make_topic()
    consumer = KafkaConsumer(bootstrap_servers=bootstrap, group_id=group)
    while not consumer.partitions_for_topic(topic):  # as in CONSUMER
        pass
    consumer.subscribe([topic])
    while not consumer.assignment():
        consumer.poll(timeout_ms=100)
    assert group in {listed["group_id"] for listed in admin.list_groups()}
    described = admin.describe_groups([group])[group]
    assert described["group_state"] == "Stable"
    assert described["protocol_type"] == "consumer"
    assert described["members"][0]["client_id"].startswith("kafka-python")
    consumer.close()
    admin.delete_groups([group])
    assert group not in {listed["group_id"] for listed in admin.list_groups()}


def test_a_session_that_is_too_long_is_refused(stack: local.LocalStack, group: str) -> None:
    with Member(stack.bootstrap, group) as member:
        request = member.join_request()
        request.session_timeout_ms = 10**8
        assert member.ask(request, 9).error_code == Code.INVALID_SESSION_TIMEOUT
        request.session_timeout_ms, request.group_id = SESSION_MS, ""
        assert member.ask(request, 9).error_code == Code.INVALID_GROUP_ID
