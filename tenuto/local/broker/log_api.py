"""Where a partition's log begins and ends: ListOffsets, OffsetForLeaderEpoch, DeleteRecords."""

from __future__ import annotations

from typing import Any

from kafka.protocol.admin import DeleteRecordsResponse
from kafka.protocol.consumer import ListOffsetsResponse, OffsetForLeaderEpochResponse

from tenuto.local.broker.call import Call
from tenuto.local.broker.errors import Code, RefusedError
from tenuto.local.broker.node import Node
from tenuto.local.broker.partition_log import PartitionLog

_LATEST, _EARLIEST, _MAX_TIMESTAMP = -1, -2, -3
_EPOCH = 0


def list_offsets(node: Node, request: Any, call: Call) -> Any:
    """ListOffsets: the log's start, its end, the newest record, or the first since a time."""
    topic_class = ListOffsetsResponse.ListOffsetsTopicResponse
    partition_class = topic_class.ListOffsetsPartitionResponse
    topics = []
    for topic in request.topics:
        partitions = []
        for asked in topic.partitions:
            code, found = Code.NONE, None
            try:
                log = node.topics.partition(topic.name, asked.partition_index).log
                found = _found(log, asked.timestamp)
            except RefusedError as error:
                code = error.code
            offset, timestamp_ms = found or (-1, -1)
            partitions.append(
                partition_class(
                    partition_index=asked.partition_index,
                    error_code=code,
                    timestamp=timestamp_ms,
                    offset=offset,
                    leader_epoch=-1 if found is None else _EPOCH,
                )
            )
        topics.append(topic_class(name=topic.name, partitions=partitions))
    return ListOffsetsResponse(throttle_time_ms=0, topics=topics)


def _found(log: PartitionLog, timestamp_ms: int) -> tuple[int, int] | None:
    if timestamp_ms == _LATEST:
        return log.end, -1
    if timestamp_ms == _EARLIEST:
        return log.start, -1
    if timestamp_ms == _MAX_TIMESTAMP:
        return log.newest()
    if timestamp_ms < 0:
        raise RefusedError(Code.INVALID_REQUEST, f"No meaning is known of time {timestamp_ms}")
    return log.first_since(timestamp_ms)


def offset_for_leader_epoch(node: Node, request: Any, call: Call) -> Any:
    """OffsetForLeaderEpoch: there is one epoch, and it ends with the log."""
    topic_class = OffsetForLeaderEpochResponse.OffsetForLeaderTopicResult
    topics = []
    for topic in request.topics:
        ends = []
        for asked in topic.partitions:
            code, epoch, end = Code.NONE, -1, -1
            try:
                log = node.topics.partition(topic.topic, asked.partition).log
                if asked.leader_epoch == _EPOCH:
                    epoch, end = _EPOCH, log.end
            except RefusedError as error:
                code = error.code
            ends.append(
                topic_class.EpochEndOffset(
                    error_code=code, partition=asked.partition, leader_epoch=epoch, end_offset=end
                )
            )
        topics.append(topic_class(topic=topic.topic, partitions=ends))
    return OffsetForLeaderEpochResponse(throttle_time_ms=0, topics=topics)


def delete_records(node: Node, request: Any, call: Call) -> Any:
    """DeleteRecords: move a log's start; -1 is its end."""
    topic_class = DeleteRecordsResponse.DeleteRecordsTopicResult
    topics = []
    for topic in request.topics:
        partitions = []
        for asked in topic.partitions:
            code, start = Code.NONE, -1
            try:
                log = node.topics.partition(topic.name, asked.partition_index).log
                offset = log.end if asked.offset == -1 else asked.offset
                if not 0 <= offset <= log.end:
                    raise RefusedError(Code.OFFSET_OUT_OF_RANGE, f"{offset} is not in the log")
                log.delete_before(offset)
                start = log.start
            except RefusedError as error:
                code = error.code
            partitions.append(
                topic_class.DeleteRecordsPartitionResult(
                    partition_index=asked.partition_index, low_watermark=start, error_code=code
                )
            )
        topics.append(topic_class(name=topic.name, partitions=partitions))
    return DeleteRecordsResponse(throttle_time_ms=0, topics=topics)
