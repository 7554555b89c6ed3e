"""Committed offsets on the wire: OffsetCommit, OffsetFetch, OffsetDelete."""

from __future__ import annotations

from typing import Any

from kafka.protocol.consumer import (
    OffsetCommitResponse,
    OffsetDeleteResponse,
    OffsetFetchResponse,
)

from tenuto.local.broker.call import Call
from tenuto.local.broker.committed import Commit, Commits
from tenuto.local.broker.errors import Code, RefusedError
from tenuto.local.broker.node import Node

_MOST_METADATA_BYTES = 4096
"""offset.metadata.max.bytes, Kafka's default."""


def offset_commit(node: Node, request: Any, call: Call) -> Any:
    """OffsetCommit."""
    topic_class = OffsetCommitResponse.OffsetCommitResponseTopic
    partition_class = topic_class.OffsetCommitResponsePartition
    group_code = _commit_code(node, request)
    commits = node.coordinator.commits(request.group_id) if group_code is Code.NONE else None
    return OffsetCommitResponse(
        throttle_time_ms=0,
        topics=[
            topic_class(
                name=topic.name,
                partitions=[
                    partition_class(
                        partition_index=asked.partition_index,
                        error_code=group_code
                        if commits is None
                        else _committed(node, commits, topic.name, asked),
                    )
                    for asked in topic.partitions
                ],
            )
            for topic in request.topics
        ],
    )


def _commit_code(node: Node, request: Any) -> Code:
    generation = request.generation_id_or_member_epoch
    if not request.group_id:
        return Code.INVALID_GROUP_ID
    if generation >= 0 and node.coordinator.get(request.group_id) is None:
        return Code.ILLEGAL_GENERATION
    group = node.coordinator.get_or_create(request.group_id)
    return group.may_commit(
        request.member_id, request.group_instance_id, generation, node.coordinator.now_ms()
    )


def _committed(node: Node, commits: Commits, topic: str, asked: Any) -> Code:
    metadata = asked.committed_metadata or ""
    if len(metadata.encode()) > _MOST_METADATA_BYTES:
        return Code.OFFSET_METADATA_TOO_LARGE
    try:
        node.topics.partition(topic, asked.partition_index)
    except RefusedError as error:
        return error.code
    commit = Commit(asked.committed_offset, asked.committed_leader_epoch, metadata)
    commits.put(topic, asked.partition_index, commit)
    return Code.NONE


def offset_fetch(node: Node, request: Any, call: Call) -> Any:
    """OffsetFetch of one group or, by newer clients, of several."""
    if call.version < 8:
        return OffsetFetchResponse(
            throttle_time_ms=0,
            topics=_fetched(
                node.coordinator.commits(request.group_id),
                request.topics,
                OffsetFetchResponse.OffsetFetchResponseTopic,
                "OffsetFetchResponsePartition",
            ),
            error_code=Code.NONE,
        )
    group_class = OffsetFetchResponse.OffsetFetchResponseGroup
    return OffsetFetchResponse(
        throttle_time_ms=0,
        groups=[
            group_class(
                group_id=group.group_id,
                topics=_fetched(
                    node.coordinator.commits(group.group_id),
                    group.topics,
                    group_class.OffsetFetchResponseTopics,
                    "OffsetFetchResponsePartitions",
                ),
                error_code=Code.NONE,
            )
            for group in request.groups
        ],
    )


def _fetched(commits: Commits, asked: Any, topic_class: Any, partition_name: str) -> list[Any]:
    """Commits by topic; of all partitions that have one if ``asked`` is None."""
    wanted: dict[str, list[int]] = {}
    if asked is None:
        for topic, partition in commits.partitions():
            wanted.setdefault(topic, []).append(partition)
    else:
        wanted = {topic.name: list(topic.partition_indexes) for topic in asked}
    nothing = Commit(-1, -1, "")
    topics = []
    for topic, partitions in wanted.items():
        found = [(index, commits.get(topic, index) or nothing) for index in partitions]
        topics.append(
            topic_class(
                name=topic,
                partitions=[
                    getattr(topic_class, partition_name)(
                        partition_index=index,
                        committed_offset=commit.offset,
                        committed_leader_epoch=commit.leader_epoch,
                        metadata=commit.metadata,
                        error_code=Code.NONE,
                    )
                    for index, commit in found
                ],
            )
        )
    return topics


def offset_delete(node: Node, request: Any, call: Call) -> Any:
    """OffsetDelete: only of a group without members, which could be reading there."""
    topic_class = OffsetDeleteResponse.OffsetDeleteResponseTopic
    group = node.coordinator.get(request.group_id)
    if group is None:
        return OffsetDeleteResponse(
            error_code=Code.GROUP_ID_NOT_FOUND, throttle_time_ms=0, topics=[]
        )
    code = Code.GROUP_SUBSCRIBED_TO_TOPIC if group.members else Code.NONE
    commits = node.coordinator.commits(request.group_id)
    topics = []
    for topic in request.topics:
        for asked in topic.partitions:
            if code is Code.NONE:
                commits.forget(topic.name, asked.partition_index)
        topics.append(
            topic_class(
                name=topic.name,
                partitions=[
                    topic_class.OffsetDeleteResponsePartition(
                        partition_index=asked.partition_index, error_code=code
                    )
                    for asked in topic.partitions
                ],
            )
        )
    return OffsetDeleteResponse(error_code=Code.NONE, throttle_time_ms=0, topics=topics)
