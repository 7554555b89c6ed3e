"""Making and unmaking topics: CreateTopics, DeleteTopics, CreatePartitions."""

from __future__ import annotations

import uuid
from collections import Counter
from typing import Any

from kafka.protocol.admin import (
    CreatePartitionsResponse,
    CreateTopicsResponse,
    DeleteTopicsResponse,
)

from tenuto.local.broker.call import Call
from tenuto.local.broker.config_api import DEFAULT_CONFIG, DYNAMIC_TOPIC_CONFIG
from tenuto.local.broker.errors import Code, RefusedError
from tenuto.local.broker.node import NODE_ID, Node
from tenuto.local.broker.topic_settings import SETTINGS
from tenuto.local.broker.topics import Topic

_NO_ID = uuid.UUID(int=0)


def create_topics(node: Node, request: Any, call: Call) -> Any:
    """CreateTopics; each topic stands or falls alone."""
    result_class = CreateTopicsResponse.CreatableTopicResult
    named = Counter(asked.name for asked in request.topics)
    results = []
    for asked in request.topics:
        try:
            if named[asked.name] > 1:
                raise RefusedError(Code.INVALID_REQUEST, "Duplicate topic name.")
            partitions, replicas = _counts(asked)
            topic = node.topics.create(
                asked.name,
                partitions,
                replicas,
                {config.name: config.value for config in asked.configs},
                validate_only=request.validate_only,
            )
        except RefusedError as error:
            results.append(
                result_class(
                    name=asked.name,
                    topic_id=_NO_ID,
                    error_code=error.code,
                    error_message=error.message,
                    configs=None if call.version < 5 else [],
                )
            )
            continue
        results.append(
            result_class(
                name=topic.name,
                topic_id=_NO_ID if request.validate_only else topic.id,
                error_code=Code.NONE,
                error_message=None,
                num_partitions=len(topic.partitions),
                replication_factor=1,
                configs=_configs(topic),
            )
        )
    return CreateTopicsResponse(throttle_time_ms=0, topics=results)


def _counts(asked: Any) -> tuple[int, int]:
    """Partitions and replicas: numbers, or an assignment, which can only name this node."""
    if not asked.assignments:
        return asked.num_partitions, asked.replication_factor
    indexes = sorted(assignment.partition_index for assignment in asked.assignments)
    if asked.num_partitions != -1 or asked.replication_factor != -1:
        raise RefusedError(Code.INVALID_REQUEST, "Both numbers and an assignment were given.")
    if indexes != list(range(len(indexes))) or any(
        list(assignment.broker_ids) != [NODE_ID] for assignment in asked.assignments
    ):
        raise RefusedError(
            Code.INVALID_REPLICA_ASSIGNMENT,
            f"Partitions must count from 0, each with the one replica {NODE_ID}",
        )
    return len(indexes), 1


def _configs(topic: Topic) -> list[Any]:
    config_class = CreateTopicsResponse.CreatableTopicResult.CreatableTopicConfigs
    return [
        config_class(
            name=name,
            value=topic.settings.get(name, setting.default),
            read_only=False,
            config_source=DYNAMIC_TOPIC_CONFIG if name in topic.settings else DEFAULT_CONFIG,
            is_sensitive=False,
        )
        for name, setting in SETTINGS.items()
    ]


def delete_topics(node: Node, request: Any, call: Call) -> Any:
    """DeleteTopics, by name or id; the groups' commits for them go, too."""
    result_class = DeleteTopicsResponse.DeletableTopicResult
    asked: list[tuple[str | None, uuid.UUID]]
    if call.version >= 6:
        asked = [(topic.name, topic.topic_id) for topic in request.topics]
    else:
        asked = [(name, _NO_ID) for name in request.topic_names]
    results = []
    for name, topic_id in asked:
        topic = node.topics.find(topic_id) if name is None else node.topics.get(name)
        if topic is None:
            unknown = Code.UNKNOWN_TOPIC_ID if name is None else Code.UNKNOWN_TOPIC_OR_PARTITION
            results.append(
                result_class(
                    name=name,
                    topic_id=topic_id,
                    error_code=unknown,
                    error_message="The topic does not exist.",
                )
            )
            continue
        node.topics.delete(topic.name)
        node.coordinator.forget_topic(topic.name)
        results.append(
            result_class(
                name=topic.name, topic_id=topic.id, error_code=Code.NONE, error_message=None
            )
        )
    return DeleteTopicsResponse(throttle_time_ms=0, responses=results)


def create_partitions(node: Node, request: Any, call: Call) -> Any:
    """CreatePartitions: more of them; assignments are not looked at, there is one node."""
    result_class = CreatePartitionsResponse.CreatePartitionsTopicResult
    results = []
    for asked in request.topics:
        code, message = Code.NONE, None
        try:
            topic = node.topics.get(asked.name)
            if topic is None:
                raise RefusedError(Code.UNKNOWN_TOPIC_OR_PARTITION, "The topic does not exist.")
            topic.grow(asked.count, validate_only=request.validate_only)
        except RefusedError as error:
            code, message = error.code, error.message
        results.append(result_class(name=asked.name, error_code=code, error_message=message))
    return CreatePartitionsResponse(throttle_time_ms=0, results=results)
