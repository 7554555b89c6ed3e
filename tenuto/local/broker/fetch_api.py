"""Fetch, versions 4 to 11: parsed by hand; waits until there is something to answer.

There are no fetch sessions: a client that asks for one is given session 0 and goes on naming all
its partitions.
"""

from __future__ import annotations

import asyncio
import struct
from dataclasses import dataclass

from tenuto.local.broker.call import Buffers, Call, MalformedError, Reply
from tenuto.local.broker.errors import Code
from tenuto.local.broker.node import Node
from tenuto.local.broker.partition import Partition

OLDEST, NEWEST = 4, 11

_SHORT = struct.Struct(">h")
_INT = struct.Struct(">i")
_ASK = struct.Struct(">iiiib")
_SESSION = struct.Struct(">ii")
_V4 = struct.Struct(">iqi")
_V5 = struct.Struct(">iqqi")
_V9 = struct.Struct(">iiqqi")
# Index, error, high watermark, last stable offset, log start, aborted transactions (null), then
# the preferred replica and the length of the records.
_PART_V4 = struct.Struct(">ihqqii")
_PART_V5 = struct.Struct(">ihqqqii")
_PART_V11 = struct.Struct(">ihqqqiii")


@dataclass(slots=True)
class _Asked:
    """One partition of a fetch; ``partition`` is None where there is ``code``."""

    index: int
    offset: int
    max_bytes: int
    partition: Partition | None
    code: Code


@dataclass(slots=True)
class _Fetch:
    version: int
    max_wait_ms: int
    min_bytes: int
    max_bytes: int
    topics: list[tuple[memoryview, list[_Asked]]]
    code: Code = Code.NONE

    def may_end(self) -> bool:
        """Whether there is enough to answer, or something went wrong."""
        enough = self.min_bytes
        if enough <= 0 or self.code is not Code.NONE:
            return True
        for _, asked in self.topics:
            for one in asked:
                if one.partition is None or one.partition.deleted:
                    return True
                log = one.partition.log
                if one.offset < log.end:
                    if one.offset < log.start:
                        return True
                    enough -= min(log.bytes_from(one.offset), one.max_bytes)
                    if enough <= 0:
                        return True
                elif one.offset > log.end:
                    return True
        return False


def fetch(node: Node, call: Call) -> Reply:
    """Answer with what is there, or when it is."""
    asked = _parse(node, call)
    if asked.max_wait_ms <= 0 or asked.may_end():
        return _response(asked)
    wait = _Wait(node, asked)
    return wait.answer


class _Wait:
    """A fetch that waits: for bytes, for its time to be up, or for its client to be gone."""

    def __init__(self, node: Node, fetch: _Fetch) -> None:
        self.answer: asyncio.Future[Buffers] = node.loop.create_future()
        self._node = node
        self._fetch = fetch
        self._looks = False
        self._partitions = [
            one.partition for _, asked in fetch.topics for one in asked if one.partition is not None
        ]
        for partition in self._partitions:
            partition.watchers.add(self._notice)
        self._timer = node.loop.call_later(fetch.max_wait_ms / 1_000, self._end)
        self.answer.add_done_callback(self._forget)

    def _notice(self) -> None:
        # Not at once: the request that appends may have more partitions of ours to append to.
        if not self._looks:
            self._looks = True
            self._node.loop.call_soon(self._look)

    def _look(self) -> None:
        self._looks = False
        if self._fetch.may_end():
            self._end()

    def _end(self) -> None:
        if not self.answer.done():
            self.answer.set_result(_response(self._fetch))

    def _forget(self, _: object) -> None:
        self._timer.cancel()
        for partition in self._partitions:
            partition.watchers.discard(self._notice)


def _parse(node: Node, call: Call) -> _Fetch:
    frame, version = call.frame, call.version
    view = memoryview(frame)
    _, max_wait_ms, min_bytes, max_bytes, _ = _ASK.unpack_from(frame, call.at)
    at = call.at + _ASK.size
    parsed = _Fetch(version, max_wait_ms, min_bytes, max_bytes, [])
    if version >= 7:
        session_id, epoch = _SESSION.unpack_from(frame, at)
        at += 8
        if session_id and epoch > 0:
            parsed.code = Code.FETCH_SESSION_ID_NOT_FOUND
    (n_topics,) = _INT.unpack_from(frame, at)
    at += 4
    for _ in range(n_topics):
        (length,) = _SHORT.unpack_from(frame, at)
        if length < 0:
            raise MalformedError("Fetch: a topic without a name")
        name = view[at : at + 2 + length]
        at += len(name)
        topic = node.topics.get(str(name[2:], "utf-8"))
        partitions = topic.partitions if topic is not None else []
        (n_partitions,) = _INT.unpack_from(frame, at)
        at += 4
        asked: list[_Asked] = []
        for _ in range(n_partitions):
            epoch = -1
            if version >= 9:
                index, epoch, offset, _, most = _V9.unpack_from(frame, at)
                at += _V9.size
            elif version >= 5:
                index, offset, _, most = _V5.unpack_from(frame, at)
                at += _V5.size
            else:
                index, offset, most = _V4.unpack_from(frame, at)
                at += _V4.size
            if not 0 <= index < len(partitions):
                asked.append(_Asked(index, offset, most, None, Code.UNKNOWN_TOPIC_OR_PARTITION))
            elif epoch > 0:
                asked.append(_Asked(index, offset, most, None, Code.UNKNOWN_LEADER_EPOCH))
            else:
                asked.append(_Asked(index, offset, most, partitions[index], Code.NONE))
        parsed.topics.append((name, asked))
    if _end_of(version, frame, at) != len(frame):
        raise MalformedError("Fetch: its lengths do not add up")
    return parsed


def _end_of(version: int, frame: bytes, at: int) -> int:
    """Skip what is of no use here: topics that a session forgets, and the client's rack."""
    if version >= 7:
        (n_topics,) = _INT.unpack_from(frame, at)
        at += 4
        for _ in range(n_topics):
            (length,) = _SHORT.unpack_from(frame, at)
            (n_partitions,) = _INT.unpack_from(frame, at + 2 + max(length, 0))
            if length < 0 or n_partitions < 0:
                # It would lead back to what was read, as often as the client says.
                raise MalformedError("Fetch: a forgotten topic without a name or partitions")
            at += 2 + length + 4 + 4 * n_partitions
    if version >= 11:
        (length,) = _SHORT.unpack_from(frame, at)
        at += 2 + max(length, 0)
    return at


def _response(fetch: _Fetch) -> Buffers:
    version = fetch.version
    out = bytearray(4)
    if version >= 7:
        out += _SHORT.pack(fetch.code) + _INT.pack(0)
    if fetch.code is not Code.NONE:
        return [out + _INT.pack(0)]
    out += _INT.pack(len(fetch.topics))
    buffers: Buffers = [out]
    left = fetch.max_bytes
    for name, asked in fetch.topics:
        out += name
        out += _INT.pack(len(asked))
        for one in asked:
            batches, size = _read(one, left, at_least_one=left == fetch.max_bytes)
            out += _head(version, one, size)
            if batches:
                left -= size
                buffers += batches
                out = bytearray()
                buffers.append(out)
    return buffers


def _read(one: _Asked, left: int, *, at_least_one: bool) -> tuple[list[bytearray], int]:
    partition = one.partition
    if partition is None:
        return [], 0
    log = partition.log
    if partition.deleted:
        one.code = Code.UNKNOWN_TOPIC_OR_PARTITION
    elif not log.start <= one.offset <= log.end:
        one.code = Code.OFFSET_OUT_OF_RANGE
    elif one.offset < log.end:
        # The first batch of an answer is whole even if it is larger: a reader must get on.
        batches = log.read(one.offset, min(left, one.max_bytes), at_least_one=at_least_one)
        return batches, sum(map(len, batches))
    return [], 0


def _head(version: int, one: _Asked, size: int) -> bytes:
    end = start = -1
    if one.partition is not None and one.code is Code.NONE:
        end, start = one.partition.log.end, one.partition.log.start
    if version >= 11:
        return _PART_V11.pack(one.index, one.code, end, end, start, -1, -1, size)
    if version >= 5:
        return _PART_V5.pack(one.index, one.code, end, end, start, -1, size)
    return _PART_V4.pack(one.index, one.code, end, end, -1, size)
