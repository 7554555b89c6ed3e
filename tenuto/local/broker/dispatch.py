"""Which requests are answered, in which versions, and by whom.

The newest versions are those that kafka-python and aiokafka gain something from, not the newest
that there are; the oldest are those of Apache Kafka 4, or older where that costs nothing.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from kafka.protocol import admin, consumer, metadata, producer
from kafka.protocol.metadata import ApiVersionsResponse

from tenuto.local.broker import (
    cluster_api,
    codec,
    config_api,
    fetch_api,
    group_api,
    log_api,
    offset_api,
    produce_api,
    topic_api,
)
from tenuto.local.broker.call import Call, MalformedError, Reply
from tenuto.local.broker.errors import Code
from tenuto.local.broker.node import Node

_API_VERSIONS = 18
_HEADER = struct.Struct(">hhih")
_RESPONSE_HEADER = struct.Struct(">ii")


@dataclass(frozen=True)
class Api:
    """One kind of request.

    Attributes:
        flexible: first version whose headers end in tagged fields.
    """

    oldest: int
    newest: int
    flexible: int
    handle: Callable[[Node, Call], Reply]


def _by_tables(request_class: Any, oldest: int, newest: int, answer: codec.Answer) -> Api:
    versions = range(newest + 1)
    flexible = next((v for v in versions if request_class.flexible_version_q(v)), newest + 1)
    return Api(oldest, newest, flexible, codec.handler(request_class, answer))


def _api_versions(node: Node, request: Any, call: Call) -> Any:
    return _answered_apis(Code.NONE)


def _answered_apis(code: Code) -> Any:
    return ApiVersionsResponse(
        error_code=code,
        api_keys=[
            ApiVersionsResponse.ApiVersion(
                api_key=key, min_version=api.oldest, max_version=api.newest
            )
            for key, api in sorted(APIS.items())
        ],
        throttle_time_ms=0,
    )


APIS: dict[int, Api] = {
    0: Api(produce_api.OLDEST, produce_api.NEWEST, 9, produce_api.produce),
    1: Api(fetch_api.OLDEST, fetch_api.NEWEST, 12, fetch_api.fetch),
    2: _by_tables(consumer.ListOffsetsRequest, 1, 7, log_api.list_offsets),
    3: _by_tables(metadata.MetadataRequest, 0, 12, cluster_api.metadata),
    8: _by_tables(consumer.OffsetCommitRequest, 2, 8, offset_api.offset_commit),
    9: _by_tables(consumer.OffsetFetchRequest, 1, 8, offset_api.offset_fetch),
    10: _by_tables(metadata.FindCoordinatorRequest, 0, 4, cluster_api.find_coordinator),
    11: _by_tables(consumer.JoinGroupRequest, 2, 9, group_api.join_group),
    12: _by_tables(consumer.HeartbeatRequest, 0, 4, group_api.heartbeat),
    13: _by_tables(consumer.LeaveGroupRequest, 0, 5, group_api.leave_group),
    14: _by_tables(consumer.SyncGroupRequest, 0, 5, group_api.sync_group),
    15: _by_tables(admin.DescribeGroupsRequest, 0, 5, group_api.describe_groups),
    16: _by_tables(admin.ListGroupsRequest, 0, 5, group_api.list_groups),
    _API_VERSIONS: _by_tables(metadata.ApiVersionsRequest, 0, 3, _api_versions),
    19: _by_tables(admin.CreateTopicsRequest, 2, 7, topic_api.create_topics),
    20: _by_tables(admin.DeleteTopicsRequest, 1, 6, topic_api.delete_topics),
    21: _by_tables(admin.DeleteRecordsRequest, 0, 2, log_api.delete_records),
    22: _by_tables(producer.InitProducerIdRequest, 0, 4, cluster_api.init_producer_id),
    23: _by_tables(consumer.OffsetForLeaderEpochRequest, 2, 4, log_api.offset_for_leader_epoch),
    32: _by_tables(admin.DescribeConfigsRequest, 1, 4, config_api.describe_configs),
    33: _by_tables(admin.AlterConfigsRequest, 0, 2, config_api.alter_configs),
    37: _by_tables(admin.CreatePartitionsRequest, 0, 3, topic_api.create_partitions),
    42: _by_tables(admin.DeleteGroupsRequest, 0, 2, group_api.delete_groups),
    44: _by_tables(
        admin.IncrementalAlterConfigsRequest, 0, 1, config_api.incremental_alter_configs
    ),
    47: _by_tables(consumer.OffsetDeleteRequest, 0, 0, offset_api.offset_delete),
    60: _by_tables(admin.DescribeClusterRequest, 0, 1, cluster_api.describe_cluster),
}


def parse(frame: bytes, host: str) -> Call:
    """The header of a request.

    Raises:
        MalformedError: it is none that this broker answers.
    """
    try:
        key, version, correlation_id, length = _HEADER.unpack_from(frame)
        at = _HEADER.size + max(length, 0)
        client_id = frame[_HEADER.size : at].decode()
        api = APIS.get(key)
        if api is None:
            raise MalformedError(f"request of the unknown kind {key}")
        if version >= api.flexible:
            if frame[at] != 0:
                raise MalformedError("tagged fields in a request's header: none are known")
            at += 1
    except (struct.error, UnicodeDecodeError, IndexError) as error:
        raise MalformedError(f"no request's header: {error}") from error
    return Call(key, version, correlation_id, client_id, host, frame, at)


def answer(node: Node, call: Call) -> Reply:
    """Answer a request, now or later.

    Raises:
        MalformedError: its body is not one of its kind and version.
    """
    api = APIS[call.api_key]
    if not api.oldest <= call.version <= api.newest:
        if call.api_key != _API_VERSIONS:
            raise MalformedError(f"request of kind {call.api_key} in version {call.version}")
        # As in Kafka: a client that is newer learns in the oldest version what it may ask.
        return [_answered_apis(Code.UNSUPPORTED_VERSION).encode(version=0)]
    try:
        return api.handle(node, call)
    except (struct.error, UnicodeDecodeError, IndexError) as error:
        raise MalformedError(f"request of kind {call.api_key}: {error}") from error


def header(call: Call, body_bytes: int) -> bytes:
    """What goes before a response's body on the wire, the frame's length included."""
    if call.version >= APIS[call.api_key].flexible and call.api_key != _API_VERSIONS:
        return _RESPONSE_HEADER.pack(body_bytes + 5, call.correlation_id) + b"\0"
    return _RESPONSE_HEADER.pack(body_bytes + 4, call.correlation_id)
