"""Who is there: Metadata, DescribeCluster, FindCoordinator and ids for idempotent producers."""

from __future__ import annotations

import uuid
from typing import Any

from kafka.protocol.admin import DescribeClusterResponse
from kafka.protocol.metadata import FindCoordinatorResponse, MetadataResponse
from kafka.protocol.producer import InitProducerIdResponse

from tenuto.local.broker.call import Call
from tenuto.local.broker.errors import Code
from tenuto.local.broker.node import NODE_ID, Node
from tenuto.local.broker.topics import Topic, is_valid_name

_Topic = MetadataResponse.MetadataResponseTopic
_Partition = _Topic.MetadataResponsePartition
_NO_ID = uuid.UUID(int=0)
_GROUP = 0


def metadata(node: Node, request: Any, call: Call) -> Any:
    """Metadata: this broker, and the topics asked for; a topic is never created by asking."""
    if request.topics is None or (call.version == 0 and not request.topics):
        topics = [_known(topic) for topic in node.topics]
    else:
        topics = [_asked(node, asked) for asked in request.topics]
    return MetadataResponse(
        throttle_time_ms=0,
        brokers=[
            MetadataResponse.MetadataResponseBroker(
                node_id=NODE_ID, host=node.host, port=node.port, rack=None
            )
        ],
        cluster_id=node.cluster_id,
        controller_id=NODE_ID,
        topics=topics,
    )


def _asked(node: Node, asked: Any) -> Any:
    if asked.name is None:
        topic = node.topics.find(asked.topic_id)
        if topic is None:
            return _unknown(Code.UNKNOWN_TOPIC_ID, None, asked.topic_id)
        return _known(topic)
    topic = node.topics.get(asked.name)
    if topic is not None:
        return _known(topic)
    valid = is_valid_name(asked.name)
    code = Code.UNKNOWN_TOPIC_OR_PARTITION if valid else Code.INVALID_TOPIC
    return _unknown(code, asked.name, _NO_ID)


def _known(topic: Topic) -> Any:
    return _Topic(
        error_code=Code.NONE,
        name=topic.name,
        topic_id=topic.id,
        is_internal=False,
        partitions=[
            _Partition(
                error_code=Code.NONE,
                partition_index=index,
                leader_id=NODE_ID,
                leader_epoch=0,
                replica_nodes=[NODE_ID],
                isr_nodes=[NODE_ID],
                offline_replicas=[],
            )
            for index in range(len(topic.partitions))
        ],
    )


def _unknown(code: Code, name: str | None, topic_id: uuid.UUID) -> Any:
    return _Topic(error_code=code, name=name, topic_id=topic_id, is_internal=False, partitions=[])


def describe_cluster(node: Node, request: Any, call: Call) -> Any:
    """DescribeCluster."""
    return DescribeClusterResponse(
        throttle_time_ms=0,
        error_code=Code.NONE,
        error_message=None,
        endpoint_type=1,
        cluster_id=node.cluster_id,
        controller_id=NODE_ID,
        brokers=[
            DescribeClusterResponse.DescribeClusterBroker(
                broker_id=NODE_ID, host=node.host, port=node.port, rack=None
            )
        ],
    )


def find_coordinator(node: Node, request: Any, call: Call) -> Any:
    """FindCoordinator: this broker, for groups; there is none for transactions."""
    # A transactional client must fail at once: a coordinator that is merely away it would await.
    code, message = Code.NONE, None
    if request.key_type != _GROUP:
        code, message = Code.INVALID_REQUEST, "This broker has no transactions"
    if call.version < 4:
        return FindCoordinatorResponse(
            throttle_time_ms=0,
            error_code=code,
            error_message=message,
            node_id=NODE_ID,
            host=node.host,
            port=node.port,
        )
    return FindCoordinatorResponse(
        throttle_time_ms=0,
        coordinators=[
            FindCoordinatorResponse.Coordinator(
                key=key,
                node_id=NODE_ID,
                host=node.host,
                port=node.port,
                error_code=code,
                error_message=message,
            )
            for key in request.coordinator_keys
        ],
    )


def init_producer_id(node: Node, request: Any, call: Call) -> Any:
    """InitProducerId: a new id; one without transactions has no use for its old one."""
    answer = InitProducerIdResponse(
        throttle_time_ms=0, error_code=Code.NONE, producer_id=-1, producer_epoch=-1
    )
    if request.transactional_id is not None:
        answer.error_code = Code.INVALID_REQUEST
    else:
        answer.producer_id, answer.producer_epoch = next(node.producer_ids), 0
    return answer
