"""Clients of a Redis Cluster, one a slot, that find their node again when it moves or comes back.

All keys of a bucket are in one slot, so an ordinary client that is connected to the right node does
everything. Whoever reads within a deadline has connections of its own (``deadline.py``).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import redis
import redis.asyncio
from redis.backoff import ExponentialBackoff
from redis.connection import parse_url
from redis.exceptions import AskError, ClusterDownError, MovedError, TryAgainError
from redis.retry import Retry

from tenuto.features.topology import Address, Topology

# A node that has come back refuses commands for two seconds, and a failover takes about as long.
# Who waits much longer ends, and is started again by a process manager.
_TRIES = 10
_LONGEST_WAIT_S = 0.5


class Cluster:
    """Clients of one cluster.

    Args:
        url: of any of its nodes, ``redis://`` or ``rediss://``.
        options: further options of a connection (password, TLS, timeouts).
    """

    def __init__(self, url: str, **options: Any) -> None:
        parsed: dict[str, Any] = parse_url(url)  # type: ignore[no-untyped-call]
        self._options: dict[str, Any] = {**options, **parsed, "protocol": 2}
        self._kind = self._options.pop("connection_class", redis.Connection)
        seed = self._options.pop("host", "localhost"), int(self._options.pop("port", 6379))
        self._topology = Topology(seed)

    def client(self, slot: int) -> redis.Redis:
        """A client of whichever node has the slot; it connects on first use."""
        wait = ExponentialBackoff(cap=_LONGEST_WAIT_S, base=0.02)
        # While a slot is on its way, a script finds its keys on two nodes, or all of them gone
        # ahead of the slot: it waits for the slot, as following ASK does not help the former.
        on_its_way = (AskError, TryAgainError)
        errors = (redis.ConnectionError, MovedError, ClusterDownError, *on_its_way)
        pool: Any = redis.ConnectionPool(
            connection_class=_FollowingTLS if self._kind is not redis.Connection else _Following,
            **self._options, cluster=self, slot=slot, retry=Retry(wait, _TRIES - 1, errors),
        )  # fmt: skip
        return redis.Redis(connection_pool=pool)

    def node(self, slot: int) -> Address:
        """Where a slot is.

        Raises:
            ConnectionError: no node answers, or none has it.
        """
        if not self._topology.is_known:
            self._ask()
        return self._topology.node(slot)

    def forget(self) -> None:
        """What is known of nodes has turned out wrong."""
        self._topology.forget()

    def _ask(self) -> None:
        failed: Exception | None = None
        for host, port in self._topology.addresses():
            pool = redis.ConnectionPool(
                connection_class=self._kind, **self._options, host=host, port=port
            )
            try:
                client: Any = redis.Redis(connection_pool=pool)
                answer = client.execute_command("CLUSTER", "SLOTS")
                self._topology.learn(answer, (host, port))
                return
            except (redis.AuthenticationError, redis.ResponseError):
                # It answers, and means it.
                raise
            except redis.RedisError as error:
                self._topology.doubt((host, port))
                failed = error
            finally:
                pool.disconnect()
        raise redis.ConnectionError(f"no node of the cluster answers: {failed}") from failed


class AsyncNodes:
    """Asyncio clients of a cluster's nodes, for reads.

    Args:
        seed: of any of its nodes; the others are reached by the same options.
    """

    def __init__(self, seed: redis.asyncio.Redis) -> None:
        self._pool = seed.connection_pool
        options = self._pool.connection_kwargs
        self._topology = Topology((options.get("host", "localhost"), options.get("port", 6379)))
        self._clients: dict[Address, redis.asyncio.Redis] = {}

    async def mget_each(
        self, asked: Sequence[tuple[int, Sequence[bytes]]]
    ) -> list[list[bytes | None]]:
        """Values of keys, slot by slot: every node is asked before any answer is waited for.

        A slot that has moved is followed, once.

        Raises:
            redis.RedisError: a node cannot be reached, or refused.
        """
        nodes = await self._nodes(asked)
        try:
            return await self._ask(asked, nodes)
        except (redis.ConnectionError, redis.ResponseError):
            self._topology.forget()
            moved = await self._nodes(asked)
            if moved == nodes:
                raise
            return await self._ask(asked, moved)

    async def aclose(self) -> None:
        """Close the connections."""
        for client in self._clients.values():
            await client.aclose()

    async def _nodes(self, asked: Sequence[tuple[int, Any]]) -> list[Address]:
        if not self._topology.is_known:
            await self._learn()
        return [self._topology.node(slot) for slot, _ in asked]

    async def _learn(self) -> None:
        failed: Exception | None = None
        for address in self._topology.addresses():
            try:
                answer = await self._client(address).execute_command("CLUSTER", "SLOTS")
            except asyncio.CancelledError:
                self._topology.doubt(address)
                raise
            except redis.ConnectionError as error:
                failed = error
                continue
            self._topology.learn(answer, address)
            return
        raise redis.ConnectionError(f"no node of the cluster answers: {failed}") from failed

    async def _ask(
        self, asked: Sequence[tuple[int, Sequence[bytes]]], nodes: Sequence[Address]
    ) -> list[list[bytes | None]]:
        async def ask(address: Address) -> list[Any]:
            async with self._client(address).pipeline(transaction=False) as pipe:
                for (_, keys), at in zip(asked, nodes, strict=True):
                    if at == address:
                        pipe.mget(keys)
                found: list[Any] = await pipe.execute()
                return found

        try:
            distinct = list(dict.fromkeys(nodes))
            answers = await asyncio.gather(*map(ask, distinct))
        except (TimeoutError, asyncio.CancelledError):
            # Silent, or too late for the caller's deadline: has it moved?
            self._topology.forget()
            raise
        of_node = {address: iter(found) for address, found in zip(distinct, answers, strict=True)}
        return [next(of_node[address]) for address in nodes]

    def _client(self, address: Address) -> Any:
        if address not in self._clients:
            host, port = address
            options = {**self._pool.connection_kwargs, "host": host, "port": port}
            pool = redis.asyncio.ConnectionPool(
                connection_class=self._pool.connection_class, **options
            )
            self._clients[address] = redis.asyncio.Redis(connection_pool=pool)
        return self._clients[address]


class _Follows:
    """A connection that looks where its slot is whenever it connects: beside a redis-py class."""

    def __init__(self, *, cluster: Cluster, slot: int, **options: Any) -> None:
        self._cluster = cluster
        self._slot = slot
        super().__init__(**options)

    def _connect(self: Any) -> Any:
        self.host, self.port = self._cluster.node(self._slot)
        try:
            return super()._connect()  # type: ignore[misc]
        except OSError:
            self._cluster.forget()
            raise

    def read_response(self: Any, *arguments: Any, **options: Any) -> Any:
        try:
            return super().read_response(*arguments, **options)  # type: ignore[misc]
        except (redis.ConnectionError, redis.TimeoutError, MovedError, ClusterDownError):
            self._cluster.forget()
            raise


class _Following(_Follows, redis.Connection):
    pass


class _FollowingTLS(_Follows, redis.SSLConnection):
    pass
