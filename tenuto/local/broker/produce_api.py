"""Produce, versions 3 to 8: parsed by hand, because every record comes through here."""

from __future__ import annotations

import struct

from tenuto.local.broker.call import Call, MalformedError, Reply
from tenuto.local.broker.errors import Code, RefusedError
from tenuto.local.broker.node import Node

OLDEST, NEWEST = 3, 8

_SHORT = struct.Struct(">h")
_INT = struct.Struct(">i")
_ACKS_TIMEOUT_COUNT = struct.Struct(">hii")
_INDEX_SIZE = struct.Struct(">ii")
_APPENDED = struct.Struct(">ihqqq")
_APPENDED_BEFORE_V5 = struct.Struct(">ihqq")
_NO_THROTTLE = b"\0\0\0\0"


def produce(node: Node, call: Call) -> Reply:
    """Append each partition's batch; one that is refused does not stop the others."""
    frame, version = call.frame, call.version
    view = memoryview(frame)
    (length,) = _SHORT.unpack_from(frame, call.at)
    at = call.at + 2 + max(length, 0)
    acks, _, n_topics = _ACKS_TIMEOUT_COUNT.unpack_from(frame, at)
    at += _ACKS_TIMEOUT_COUNT.size
    now_ms = node.now_ms()
    fault = _fault(length, acks)
    refused = False
    out = bytearray(_INT.pack(n_topics))
    for _ in range(n_topics):
        (length,) = _SHORT.unpack_from(frame, at)
        if length < 0:
            # It would lead back to what was read, as often as the client says.
            raise MalformedError("Produce: a topic without a name")
        name_end = at + 2 + length
        (n_partitions,) = _INT.unpack_from(frame, name_end)
        name = str(view[at + 2 : name_end], "utf-8")
        out += view[at : name_end + 4]
        at = name_end + 4
        for _ in range(n_partitions):
            index, size = _INDEX_SIZE.unpack_from(frame, at)
            at += 8
            batch = view[at : at + max(size, 0)]
            at += max(size, 0)
            code, offset, stamped_ms, start, why = Code.NONE, -1, -1, -1, b"\xff\xff"
            try:
                if fault is not None:
                    raise fault
                partition = node.topics.partition(name, index)
                offset, stamped_ms = partition.append(batch, now_ms)
                start = partition.log.start
            except RefusedError as error:
                refused = True
                code = error.code
                text = error.message.encode()
                why = _SHORT.pack(len(text)) + text
            if version >= 5:
                out += _APPENDED.pack(index, code, offset, stamped_ms, start)
            else:
                out += _APPENDED_BEFORE_V5.pack(index, code, offset, stamped_ms)
            if version >= 8:
                out += b"\0\0\0\0" + why
    if at != len(frame):
        raise MalformedError("Produce: its lengths do not add up")
    if acks == 0:
        if refused:
            # Nobody reads an answer: as in Kafka, the client learns it by losing the connection.
            raise MalformedError("Produce without acknowledgement was refused")
        return None
    out += _NO_THROTTLE
    return [out]


def _fault(transactional_id_length: int, acks: int) -> RefusedError | None:
    if acks not in (-1, 0, 1):
        return RefusedError(Code.INVALID_REQUIRED_ACKS, f"acks is {acks}: must be -1, 0 or 1")
    if transactional_id_length >= 0:
        return RefusedError(Code.INVALID_TXN_STATE, "This broker has no transactions")
    return None
