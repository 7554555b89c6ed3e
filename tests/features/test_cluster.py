"""Buckets on a real Redis Cluster of three nodes: written, read, moved, lost, and made whole."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import redis
from dying_scripts import Dying
from feature_world import START_MS, World
from redis_cluster import RedisCluster
from secure_servers import has_tls, make_certificates
from test_audit_features import busy
from test_feature_buckets import P0, state
from test_feature_worker import Logged, read_all, worker

from tenuto.features.bucket_keys import cluster_slot
from tenuto.features.buckets import Buckets
from tenuto.features.client import (
    AsyncFeatureClient,
    DeadlineExceededError,
    FeatureClient,
    StoreUnavailableError,
)
from tenuto.features.connection import RedisConnection
from tenuto.features.matrix import State
from tenuto.features.progress import BucketCountError
from tenuto.features.reader import Reader, Request
from tenuto.features.rules import TimeRules
from tenuto.features.schema import FeatureSet
from tenuto.features.store import StoreError
from tenuto.features.topology import Topology
from tenuto.local.redis import installed_binary
from tenuto.presets import video
from tenuto.streams.feature_worker import FeatureWorker

FEATURES = FeatureSet.of(video.small, TimeRules())
ITEMS = [f"i{at}" for at in range(300)]
AS_OF = START_MS + 40 * 6_000
BUCKETS = 6
# As docs/production.md says.
RIGHTS = {
    "worker": "~{tenuto.* +@all -@dangerous +info",
    "ranker": "~{tenuto.* +@read +@connection +cluster|slots",
}


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisCluster]:
    made = RedisCluster(tmp_path_factory.mktemp("cluster"))
    yield made
    made.close()


@pytest.fixture
def cluster(servers: RedisCluster) -> RedisCluster:
    """The nodes, all there and empty."""
    for node in range(3):
        servers.client(node).flushall()
    return servers


def connect(cluster: RedisCluster, name: str = "", buckets: int = BUCKETS) -> Buckets:
    connection = RedisConnection(url=cluster.url, cluster=True, buckets=buckets)
    return Buckets.connect(connection, FEATURES.layout, 1, name)


def client_of(cluster: RedisCluster, buckets: int = BUCKETS) -> FeatureClient:
    return FeatureClient(cluster.url, Reader(FEATURES, 1, buckets=buckets), cluster=True)


def read(client: FeatureClient, items: list[str] = ITEMS) -> Any:
    return client.read(Request("r", "u1", "q", AS_OF), items, timeout_ms=5_000)


def rebuilding(matrix: Any) -> list[bool]:
    """Of items, of which only clicks are read here; empty where none is."""
    found = (matrix.state("item_clicks_1h") == State.REBUILDING).tolist()
    return found if any(found) else []


def slots(buckets: Buckets) -> list[int]:
    return [cluster_slot(store.prefix.decode()) for store in buckets.stores]


@pytest.fixture
def plain(redis_url: str) -> dict[bytes, Any]:
    """The state of the log in one bucket of one Redis."""
    one = Buckets.connect(RedisConnection(url=redis_url), FEATURES.layout, 1, "plain")
    log = Logged(6_000, 1)
    asyncio.run(read_all(worker(one, log), log))
    return state(one)


def test_what_three_nodes_have_together_is_the_state_of_one(
    cluster: RedisCluster, plain: dict[bytes, Any]
) -> None:
    buckets, log = connect(cluster), Logged(6_000, 1)
    asyncio.run(read_all(worker(buckets, log), log))
    assert state(buckets) == plain
    sizes = [cluster.client(node).dbsize() for node in range(3)]
    assert min(sizes) > 0.7 * max(sizes), "every node has its part"
    assert buckets.check().policy == "noeviction"


def test_a_read_asks_every_node_and_is_equal_bit_for_bit(cluster: RedisCluster) -> None:
    world = busy(cluster.url, buckets=BUCKETS, cluster=True)
    findings = world.audit()
    assert findings.clean, findings.table()
    assert findings.checked["values"] == 25 * 3 * len(world.features.columns)
    assert world.audit_state().clean


async def test_an_asynchronous_read_is_the_same(cluster: RedisCluster) -> None:
    buckets, log = connect(cluster), Logged(2_000, 1)
    await read_all(worker(buckets, log), log)
    client = AsyncFeatureClient(cluster.url, Reader(FEATURES, 1, buckets=BUCKETS), cluster=True)
    request = Request("r", "u1", "q", AS_OF)
    found = await client.read(request, ITEMS, timeout_ms=5_000)
    same = await asyncio.to_thread(read, client_of(cluster))
    assert found.values.tobytes() == same.values.tobytes()
    assert found.stamp.read == same.stamp.read == tuple(range(BUCKETS))
    await client.aclose()


def test_one_bucket_may_be_in_a_cluster_too(cluster: RedisCluster, plain: dict[bytes, Any]) -> None:
    buckets, log = connect(cluster, buckets=1), Logged(6_000, 1)
    asyncio.run(read_all(worker(buckets, log), log))
    assert state(buckets) == plain
    assert read(client_of(cluster, 1)).stamp.buckets == 1


def test_a_reader_of_another_number_of_buckets_is_told(cluster: RedisCluster) -> None:
    World(cluster.url, video.small, buckets=BUCKETS, cluster=True)
    with pytest.raises(BucketCountError, match="kept in 6 buckets"):
        read(client_of(cluster, 2))


def test_a_slot_that_moves_is_followed_by_writers_and_readers(
    cluster: RedisCluster, plain: dict[bytes, Any]
) -> None:
    buckets, log, client = connect(cluster), Logged(6_000, 1), client_of(cluster)
    (slot, *_) = slots(buckets)
    before = cluster.node_of(slot)

    async def disturb(taken: int) -> None:
        if taken == 5:
            await asyncio.to_thread(read, client)
            await asyncio.to_thread(cluster.move, slot, (before + 1) % 3)

    try:
        asyncio.run(read_all(worker(buckets, log), log, disturb))
        assert state(buckets) == plain
        matrix = read(client)
        assert matrix.stamp.read == tuple(range(BUCKETS))
        assert not rebuilding(matrix)
        assert cluster.client(before).execute_command("CLUSTER", "COUNTKEYSINSLOT", slot) == 0
    finally:
        _move_back(cluster, slot, (before + 1) % 3, before)


def test_a_worker_waits_while_a_slot_is_on_its_way(
    cluster: RedisCluster, plain: dict[bytes, Any]
) -> None:
    """Scripts are refused while their keys are on two nodes, and once all have left the old one."""
    buckets, log = connect(cluster), Logged(6_000, 1)
    (slot, *_) = slots(buckets)
    before = cluster.node_of(slot)
    refused: list[int] = []

    def until_refused() -> None:
        """Go on once the worker has met this state of the move."""
        known = sum(refused)
        while (n := _refusals(cluster, before)) == known:
            time.sleep(0.001)
        refused.append(n - known)

    async def move_meanwhile() -> None:
        moving: list[asyncio.Task[None]] = []

        async def disturb(taken: int) -> None:
            if taken == 5:
                cluster.client(before).config_resetstat()
                to = (before + 1) % 3
                moving.append(
                    asyncio.create_task(asyncio.to_thread(cluster.move, slot, to, until_refused))
                )

        await read_all(worker(buckets, log), log, disturb)
        await moving[0]

    try:
        asyncio.run(move_meanwhile())
        assert len(refused) == 2, "with some of its keys gone, and with all of them"
        assert state(buckets) == plain
    finally:
        _move_back(cluster, slot, (before + 1) % 3, before)


def _refusals(cluster: RedisCluster, node: int) -> int:
    """How often a node has refused a command because its keys are leaving."""
    stats = cluster.client(node).info("errorstats")
    kinds = ("errorstat_TRYAGAIN", "errorstat_ASK")
    return sum(stats[kind]["count"] for kind in kinds if kind in stats)


def _move_back(cluster: RedisCluster, slot: int, at: int, to: int) -> None:
    for node in range(3):
        cluster.client(node).flushall()
    own = cluster.client(to).execute_command("CLUSTER", "MYID").decode()
    for node in (to, at, *range(3)):
        cluster.client(node).execute_command("CLUSTER", "SETSLOT", slot, "NODE", own)
    cluster.wait_whole()


def test_a_node_killed_and_come_back_empty_is_rebuilt_alone(
    cluster: RedisCluster, plain: dict[bytes, Any]
) -> None:
    buckets, log, client = connect(cluster), Logged(6_000, 1), client_of(cluster)
    lost = [b for b, slot in enumerate(slots(buckets)) if cluster.node_of(slot) == 1]
    assert 0 < len(lost) < BUCKETS

    async def lose() -> None:
        made = worker(buckets, log)
        await read_all(made, log)
        whole = await asyncio.to_thread(read, client)
        assert not rebuilding(whole)
        await asyncio.to_thread(cluster.kill, 1)
        with pytest.raises(StoreUnavailableError):
            await asyncio.to_thread(read, client)
        await asyncio.to_thread(cluster.start, 1)
        await asyncio.to_thread(cluster.wait_whole)
        _check_states(await asyncio.to_thread(read, client), client.reader, set(lost))
        await made.watch()
        standing = [entry.next for entry in made.progress.entries[P0]]
        assert standing == [0 if b in lost else 6_000 for b in range(BUCKETS)]
        while (batch := log.fetch()) is not None:
            await made.take(batch)
        await made.flush()
        again = await asyncio.to_thread(read, client)
        assert again.values.tobytes() == whole.values.tobytes()
        assert again.states.tobytes() == whole.states.tobytes()

    asyncio.run(lose())
    assert state(buckets) == plain


def _check_states(matrix: Any, reader: Reader, lost: set[int]) -> None:
    """Items of the lost buckets are rebuilding, and no others."""
    plan = reader.plan(Request("r", "u1", "q", AS_OF), ITEMS, {})
    assert plan.bucket_of is not None
    view, places = next(span for span in plan.spans if span[0].entity.name == "item")
    of_item = [int(plan.bucket_of[at or 0]) for at in places]
    assert view.entity.name == "item"
    assert rebuilding(matrix) == [bucket in lost for bucket in of_item]


def test_a_worker_outlives_a_node_that_is_away_for_a_moment(
    cluster: RedisCluster, plain: dict[bytes, Any]
) -> None:
    """Connection refused is asked again; what the node had is rebuilt."""
    buckets, log = connect(cluster), Logged(6_000, 1)

    async def disturb(taken: int) -> None:
        if taken == 5:
            await asyncio.to_thread(cluster.kill, 2)
            await asyncio.to_thread(cluster.start, 2)

    asyncio.run(read_all(worker(buckets, log), log, disturb))
    assert state(buckets) == plain


def test_a_replica_that_takes_over_without_the_newest_is_made_whole(
    tmp_path: Any, plain: dict[bytes, Any]
) -> None:
    """What the node that died had not told its replica yet is read once more, there alone."""
    servers = RedisCluster(tmp_path)
    try:
        buckets, log = connect(servers), Logged(6_000, 1)
        lost = [b for b, slot in enumerate(slots(buckets)) if servers.node_of(slot) == 1]
        replica = servers.add_replica(of=1)

        async def fail_over() -> None:
            made = worker(buckets, log)
            log.position = (await made.start_positions({P0}))[P0]
            await _take(made, log, 8)
            await asyncio.to_thread(servers.wait_replicated, replica, of=1)
            with servers.frozen(replica):
                servers.client(1).client_kill_filter(_type="replica")
                await _take(made, log, 8)
                newest = made.progress.entries[P0][lost[0]].next
                await asyncio.to_thread(servers.kill, 1)
            await asyncio.to_thread(servers.wait_promoted, replica)
            await made.watch()
            standing = [entry.next for entry in made.progress.entries[P0]]
            assert all((standing[b] < newest) == (b in lost) for b in range(BUCKETS))
            assert log.position == standing[lost[0]] > 0
            await read_all(made, log)

        asyncio.run(fail_over())
        assert state(buckets) == plain
    finally:
        servers.close()


async def _take(made: FeatureWorker, log: Logged, batches: int) -> None:
    for _ in range(batches):
        batch = log.fetch()
        assert batch is not None
        await made.take(batch)
    await made.flush()


def test_a_cluster_with_a_password_is_reached_with_it(tmp_path: Any) -> None:
    servers = RedisCluster(tmp_path, 3, requirepass="secret")
    try:
        connection = RedisConnection(url=servers.url, cluster=True, buckets=3, password="secret")
        buckets = Buckets.connect(connection, FEATURES.layout, 1)
        log = Logged(500, 1)
        asyncio.run(read_all(worker(buckets, log), log))
        reader = Reader(FEATURES, 1, buckets=3)
        right = FeatureClient(servers.url, reader, cluster=True, **connection.options())
        assert read(right).stamp.read == (0, 1, 2)
        wrong = FeatureClient(servers.url, reader, cluster=True)
        with pytest.raises(StoreUnavailableError, match=r"(?i)auth"):
            read(wrong)
        without = Buckets.connect(
            RedisConnection(url=servers.url, cluster=True), FEATURES.layout, 1
        )
        with pytest.raises(redis.RedisError, match=r"(?i)auth"):
            without.check()
    finally:
        servers.close()


@pytest.mark.stack
async def test_users_with_the_rights_of_the_docs_reach_a_cluster_over_tls(tmp_path: Any) -> None:
    if not has_tls(installed_binary()):
        pytest.skip("the redis-server on PATH has no TLS")
    certificates = make_certificates(tmp_path)
    servers = RedisCluster(tmp_path / "nodes", 3, certificates)
    try:
        for node in range(3):
            for name, rights in RIGHTS.items():
                servers.client(node).execute_command(
                    "ACL", "SETUSER", name, "on", f">{name}", *rights.split()
                )
        worker_s, ranker_s = (
            RedisConnection(
                url=servers.url, cluster=True, buckets=3, ssl_ca_certs=certificates.ca,
                username=name, password=name,
            )
            for name in RIGHTS
        )  # fmt: skip
        buckets = Buckets.connect(worker_s, FEATURES.layout, 1)
        await read_all(worker(buckets, log := Logged(500, 1)), log)
        reader = Reader(FEATURES, 1, buckets=3)
        client = FeatureClient(servers.url, reader, cluster=True, **ranker_s.options())
        same = AsyncFeatureClient(servers.url, reader, cluster=True, **ranker_s.options())
        found = await asyncio.to_thread(read, client)
        assert found.stamp.read == (0, 1, 2)
        again = await same.read(Request("r", "u1", "q", AS_OF), ITEMS, timeout_ms=5_000)
        assert again.values.tobytes() == found.values.tobytes()
        await same.aclose()
    finally:
        servers.close()


def test_a_node_without_memory_holds_a_batch_up_and_doubles_nothing(
    cluster: RedisCluster, plain: dict[bytes, Any]
) -> None:
    buckets, log = connect(cluster), Logged(6_000, 1)
    full = cluster.client(1)

    async def disturb(taken: int) -> None:
        if taken == 5:
            full.config_set("maxmemory", 1)
            asyncio.get_running_loop().call_later(0.2, full.config_set, "maxmemory", 0)

    try:
        asyncio.run(read_all(worker(buckets, log), log, disturb))
    finally:
        full.config_set("maxmemory", 0)
    assert log.generation == 0, "nothing was read again"
    assert state(buckets) == plain


def test_a_node_that_may_evict_is_named(cluster: RedisCluster) -> None:
    buckets, client = connect(cluster), cluster.client(1)
    client.config_set("maxmemory-policy", "allkeys-lru")
    try:
        with pytest.raises(StoreError, match=f"127.0.0.1:{cluster.ports[1]}: redis: maxmemory"):
            buckets.check()
    finally:
        client.config_set("maxmemory-policy", "noeviction")


@pytest.mark.parametrize("kind", [FeatureClient, AsyncFeatureClient])
async def test_a_silent_node_is_not_asked_first_for_ever(cluster: RedisCluster, kind: Any) -> None:
    """One deadline passes; then another node says who has what."""
    names = ("a", "b", "c", "d", "e", "f", "g", "h")
    name = next(n for n in names if cluster.node_of(slots(connect(cluster, n, 1))[0]) == 2)
    await read_all(worker(connect(cluster, name, 1), log := Logged(100, 1)), log)
    client = kind(cluster.url, Reader(FEATURES, 1, name), cluster=True)

    async def answers(timeout_ms: float) -> bool:
        request = Request("r", "u1", "q", AS_OF)
        asked = partial(client.read, request, ITEMS, timeout_ms=timeout_ms)
        try:
            await (asked() if kind is AsyncFeatureClient else asyncio.to_thread(asked))
        except DeadlineExceededError:
            return False
        return True

    assert await answers(5_000)
    topology = (client._nodes if kind is AsyncFeatureClient else client._connections)._topology
    with cluster.frozen(0):
        assert topology.addresses()[0] == ("127.0.0.1", cluster.ports[0])
        topology.forget()
        assert [await answers(400) for _ in range(3)] == [False, True, True]


def test_two_workers_on_a_cluster_count_every_record_once(
    cluster: RedisCluster, plain: dict[bytes, Any]
) -> None:
    logs = [Logged(6_000, 1), Logged(6_000, 1)]
    logs[1].sizes = random.Random(2)

    async def both() -> None:
        await asyncio.gather(*(read_all(worker(connect(cluster), log), log) for log in logs))

    asyncio.run(both())
    assert state(connect(cluster)) == plain


@pytest.mark.parametrize("last", [1, 2, 4, 7])
def test_a_worker_killed_between_two_nodes_loses_and_doubles_nothing(
    cluster: RedisCluster, plain: dict[bytes, Any], last: int
) -> None:
    """Some nodes have all of their chunks of it, some a part."""
    died, log = connect(cluster), Logged(6_000, 1)

    async def begin() -> None:
        made = worker(died, log)
        await made.start_positions({P0})
        await made.take(log.batch(0, 2_500))
        with pytest.raises(redis.ConnectionError):
            await made.flush()

    with Dying(died.stores, last):
        asyncio.run(begin())
    asyncio.run(read_all(worker(connect(cluster), log), log))
    assert state(connect(cluster)) == plain


def test_a_redis_that_is_no_cluster_says_so(redis_url: str) -> None:
    client = FeatureClient(redis_url, Reader(FEATURES, 1), cluster=True)
    with pytest.raises(StoreUnavailableError, match="cluster support disabled"):
        read(client, ["i1"])
    one = Buckets.connect(RedisConnection(url=redis_url, cluster=True), FEATURES.layout, 1)
    with pytest.raises(redis.ResponseError, match="cluster support disabled"):
        one.check()


# What a cluster says of itself, without one.


def test_a_slot_is_where_the_cluster_says() -> None:
    topology = Topology(("seed", 1))
    assert topology.addresses() == [("seed", 1)]
    topology.learn([[0, 5, [b"a", 7000, b"id"], [b"r", 7009, b"id"]], [6, 9, [b"", 7001, b"x"]]],
                   ("asked", 1))  # fmt: skip
    assert [topology.node(slot) for slot in (0, 5, 6)] == [("a", 7000)] * 2 + [("asked", 7001)]
    assert topology.addresses() == [("a", 7000), ("asked", 7001), ("seed", 1)]
    topology.doubt(("a", 7000))
    assert topology.addresses()[-1] == ("a", 7000)
    with pytest.raises(redis.ConnectionError, match="no node of the cluster has slot 10"):
        topology.node(10)
    assert not topology.is_known
