"""What comes over a socket: Redis's values, requests to the embedded broker and the example."""

from __future__ import annotations

import asyncio
import struct
import sys
from pathlib import Path
from random import Random
from typing import Any

import msgspec
from fuzz_mutations import INTEGERS, TEXTS, json_bytes, mutated_bytes, mutated_tree
from fuzz_target import ACCEPTED, Decoder, FindingError, Outcome, refused

from tenuto.features.progress import ENTRY_BYTES, Entry, PartitionCountError
from tenuto.features.reader import ContextError, Reader, Request
from tenuto.features.sums import AsOfTooOldError, DamagedValueError
from tenuto.local.broker import dispatch
from tenuto.local.broker.call import MalformedError
from tenuto.local.broker.framing import FrameError, Frames
from tenuto.local.broker.node import Node
from tenuto.presets.video import app

T0_MS = 1_650_000_000_000
PARTITIONS = 2
LARGEST_REQUEST = 1 << 20


def redis_values(_: Path) -> Decoder:
    """``features/progress.py``, ``sums.py`` and ``reader.py``: strings of any size and content."""
    features = app.feature_set()
    reader = Reader(features, PARTITIONS)
    topics = len(features.layout.topics)
    entry = Entry(b"x" * 16, 0, 0, 10, T0_MS, 0).pack()
    items = ["a", "b", "c"]
    request = Request("r", "u", "q", T0_MS)
    plan = reader.plan(request, items, {})
    sizes = [0] * len(plan.keys)
    for view, places in plan.spans:
        for place in places:
            if place is not None:
                sizes[place] = view.size
    good = [entry * (topics * PARTITIONS), *(bytes(size) for size in sizes[1:])]

    def make(rng: Random) -> Any:
        values: list[bytes | None] = list(good)
        for _ in range(rng.randint(1, 3)):
            at = rng.randrange(len(values))
            value = values[at] or b""
            match rng.randrange(7):
                case 0:
                    values[at] = None
                case 1:
                    values[at] = value[: rng.randrange(len(value) + 1)]
                case 2:
                    values[at] = rng.choice([b"", b"OK", b"12", b"x" * 72, value + b"\0" * 4])
                case 3:
                    values[at] = rng.randbytes(len(value))
                case 4:
                    # Two wrong lengths that add up to right ones.
                    other = rng.randrange(len(values))
                    values[at], values[other] = value + b"\0" * 4, (values[other] or b"")[:-4]
                case 5:
                    values[at] = b"\xff" * len(value)
                case _:
                    values[at] = mutated_bytes(rng, value)
        asked = [rng.choice(TEXTS)[:300] if rng.random() < 0.2 else name for name in items]
        as_of = rng.choice([T0_MS, T0_MS, 0, 2**48, *[n for n in INTEGERS if 0 <= n < 2**63]])
        return [values, asked, as_of, rng.choice([{}, {"author": "x"}, {"nobody": 1}])]

    def take(value: Any) -> Outcome:
        values, asked, as_of, context = value
        try:
            given = reader.context(context, len(asked))
            reader.plan(request, asked, given)
            matrix = reader.decode(request, items, given, as_of, plan, values)
        except (AsOfTooOldError, ContextError, DamagedValueError, PartitionCountError) as error:
            return refused(error)
        if matrix.values.shape != (3, len(features.columns)):
            raise FindingError("a matrix of another shape")
        for found, size in zip(values[1:], sizes[1:], strict=True):
            if found and len(found) != size:
                raise FindingError("a value of another size was taken for one of ours")
        for at in range(0, len(values[0] or b""), ENTRY_BYTES):
            Entry.unpack((values[0] or b"")[at : at + ENTRY_BYTES])
        return ACCEPTED

    return Decoder(make, take)


def _requests() -> list[tuple[int, int, bytes]]:
    """A valid request of each kind that the broker answers: key, version, frame."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "local" / "broker"))
    import raw_client
    import record_batches
    from kafka.protocol import admin, consumer, metadata, producer

    batch = record_batches.batch([b"v"] * 3, key=b"k")
    packed = record_batches.batch([b"v" * 400] * 3, compression=record_batches.GZIP)
    topic = admin.CreateTopicsRequest.CreatableTopic
    found: list[tuple[Any, int]] = [
        (raw_client.produce_request("t", {0: batch, 1: packed}), 8),
        (raw_client.produce_request("t", {0: batch}), 3),
        (raw_client.fetch_request("t", {0: 0, 1: 0}), 11),
        (raw_client.fetch_request("t", {0: 0}), 4),
        (metadata.MetadataRequest(topics=None, allow_auto_topic_creation=False), 8),
        (metadata.ApiVersionsRequest(client_software_name="x", client_software_version="1"), 3),
        (metadata.FindCoordinatorRequest(key="g", key_type=0), 3),
        (consumer.HeartbeatRequest(group_id="g", generation_id=1, member_id="m"), 2),
        (producer.InitProducerIdRequest(transactional_id=None, transaction_timeout_ms=1), 1),
        (admin.ListGroupsRequest(), 2),
        (admin.DescribeGroupsRequest(groups=["g"]), 3),
        (admin.DeleteTopicsRequest(topic_names=["t"], timeout_ms=1), 3),
        (admin.DeleteGroupsRequest(groups_names=["g"]), 1),
        (
            admin.CreateTopicsRequest(
                topics=[
                    topic(
                        name="n", num_partitions=2, replication_factor=1, assignments=[],
                        configs=[topic.CreatableTopicConfig(name="retention.ms", value="5")],
                    )
                ],
                timeout_ms=1, validate_only=False,
            ),
            4,
        ),
        (
            consumer.ListOffsetsRequest(
                replica_id=-1, isolation_level=0,
                topics=[
                    consumer.ListOffsetsRequest.ListOffsetsTopic(
                        name="t",
                        partitions=[
                            consumer.ListOffsetsRequest.ListOffsetsTopic.ListOffsetsPartition(
                                partition_index=0, current_leader_epoch=-1, timestamp=5
                            )
                        ],
                    )
                ],
            ),
            4,
        ),
        (
            consumer.JoinGroupRequest(
                group_id="g", session_timeout_ms=10_000, rebalance_timeout_ms=10_000,
                member_id="", group_instance_id=None, protocol_type="consumer",
                protocols=[
                    consumer.JoinGroupRequest.JoinGroupRequestProtocol(name="range", metadata=b"x")
                ],
            ),
            5,
        ),
    ]  # fmt: skip
    frames = []
    for request, version in found:
        request.with_header(correlation_id=7, client_id="c")
        frame = bytes(request.encode(version=version, header=True, framed=False))
        frames.append((int(request.API_KEY), version, frame))
    return frames


def broker(_: Path) -> Decoder:
    """``tenuto/local/broker``: requests of any client, and what the next client then finds."""
    frames = _requests()
    import raw_client
    import record_batches

    produce = raw_client.produce_request("t", {0: record_batches.batch([b"good"])})
    produce.with_header(correlation_id=1, client_id="c")
    good = bytes(produce.encode(version=8, header=True, framed=False))

    def make(rng: Random) -> Any:
        key, version, frame = rng.choice(frames)
        head, body = frame[:8], frame[8:]
        match rng.randrange(5):
            case 0:
                frame = mutated_bytes(rng, frame)
            case 1:
                key = rng.choice([rng.choice(frames)[0], *dispatch.APIS, rng.randrange(-5, 80)])
                version = rng.randint(-1, 13)
                frame = struct.pack(">hh", key, version) + head[4:] + body
            case _:
                # A length or a count that lies: negative ones lead back to what was read.
                at = rng.randrange(len(body))
                width = rng.choice([">h", ">i"])
                number = rng.choice([-1, -2, -4, -6, -8, -10, -14, -(2**15), 2**15 - 1, 7, 100])
                wide = rng.choice([number, -(2**31), 2**31 - 1, -6, -10, -14, 2**30])
                lie = struct.pack(width, number if width == ">h" else wide)
                frame = head + body[:at] + lie + body[at + len(lie) :]
                if rng.random() < 0.5:
                    at = rng.randrange(8, len(frame))
                    frame = frame[:at] + struct.pack(">i", wide) + frame[at + 4 :]
        return frame[:LARGEST_REQUEST]

    def take(frame: bytes) -> Outcome:
        loop = asyncio.new_event_loop()
        try:
            node = Node("127.0.0.1", 1, 1, loop)
            node.topics.create("t", 2, 1, {})
            outcome = _answer(node, frame)
            if node.topics.get("t") is None:
                node.topics.create("t", 2, 1, {})
            reply = dispatch.answer(node, dispatch.parse(good, "h"))
            if not isinstance(reply, list) or not reply[0]:
                raise FindingError("the next client is not answered")
            _stream(frame)
            return outcome
        finally:
            loop.close()

    return Decoder(make, take)


def _answer(node: Node, frame: bytes) -> Outcome:
    try:
        call = dispatch.parse(frame, "h")
        reply = dispatch.answer(node, call)
    except MalformedError as error:
        return refused(error)
    if isinstance(reply, asyncio.Future):
        reply.cancel()
        node.loop.run_until_complete(asyncio.sleep(0))
    elif reply is not None:
        dispatch.header(call, sum(map(len, reply)))
    return ACCEPTED


def _stream(frame: bytes) -> None:
    """The same bytes as a stream of frames, whose lengths lie."""
    frames = Frames(LARGEST_REQUEST)
    sent = frame[2:400]
    while sent:
        space = frames.space()
        n = min(len(space), len(sent), 37)
        if n == 0:
            raise FindingError("a connection that reads nothing more")
        space[:n] = sent[:n]
        frames.received(n)
        sent = sent[n:]
        try:
            while frames.next() is not None:
                continue
        except FrameError as error:
            refused(error)
            return


def serving_example(_: Path) -> Decoder:
    """``examples/serving.py``: the body of ``POST /rank`` up to the keys that it asks Redis for."""
    sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))
    import serving

    reader = Reader(app.feature_set(), PARTITIONS)
    good = {
        "user_id": "u", "candidates": ["a", "b"], "query": "q", "request_id": "r",
        "context": {"x": [0.5, None, "t"]}, "n": 3,
    }  # fmt: skip

    def make(rng: Random) -> bytes:
        tree: Any = good if rng.random() < 0.5 else good | {"context": None}
        value = json_bytes(mutated_tree(rng, tree, json_text=True))
        return mutated_bytes(rng, value) if rng.random() < 0.4 else value

    def take(body: bytes) -> Outcome:
        try:
            asked = msgspec.json.decode(body, type=serving.Asked)
            given = reader.context(asked.context or {}, len(asked.candidates))
            request = Request(asked.request_id or "r", asked.user_id, asked.query, T0_MS)
            reader.plan(request, asked.candidates, given)
        except (ValueError, RecursionError) as error:
            # What the example answers with 400.
            return refused(error)
        return ACCEPTED

    return Decoder(make, take)
