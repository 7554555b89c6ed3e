"""A Redis Cluster of a few nodes on loopback, for tests; nothing is kept on disk."""

from __future__ import annotations

import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import redis
from secure_servers import Certificates

from tenuto.local.redis import installed_binary

_SLOTS = 16_384
_WITHIN_S = 20.0


class RedisCluster:
    """Nodes that are up and agree on who has which slots; ``close`` ends them.

    Args:
        data: a folder of its own.
        nodes: how many, each with an equal range of slots.
        certificates: for nodes that speak TLS alone, to each other too.
        options: of every server, such as ``requirepass``.
    """

    def __init__(
        self,
        data: Path,
        nodes: int = 3,
        certificates: Certificates | None = None,
        **options: str,
    ) -> None:
        self.ports = [_free_port() for _ in range(nodes)]
        self._edges = [_SLOTS * at // nodes for at in range(nodes + 1)]
        self._data = data
        self._tls = certificates
        self._options = options
        self._servers: list[subprocess.Popen[bytes] | None] = [None] * nodes
        try:
            for node in range(nodes):
                self.start(node)
            self._join()
        except BaseException:
            self.close()
            raise

    @property
    def url(self) -> str:
        return f"redis{'s' if self._tls else ''}://127.0.0.1:{self.ports[0]}"

    def client(self, node: int) -> Any:
        """A client of one node alone."""
        password = self._options.get("requirepass")
        tls = {"ssl": True, "ssl_ca_certs": self._tls.ca} if self._tls else {}
        return redis.Redis(
            host="127.0.0.1", port=self.ports[node], password=password, socket_timeout=5.0, **tls
        )

    def start(self, node: int) -> None:
        """Start a node, empty, with the slots that it had; returns once it answers."""
        folder = self._data / f"node{node}"
        folder.mkdir(parents=True, exist_ok=True)
        options = {
            "port": str(self.ports[node]),
            "bind": "127.0.0.1",
            "dir": str(folder),
            "save": "",
            "cluster-enabled": "yes",
            "cluster-node-timeout": "1000",
            # The other nodes go on without it.
            "cluster-require-full-coverage": "no",
            "maxmemory-policy": "noeviction",
            # A replica is there at once, and may take over however long it was cut off.
            "repl-diskless-sync-delay": "0",
            "cluster-replica-validity-factor": "0",
            **self._options,
        }
        if self._tls is not None:
            options |= {
                "port": "0",
                "tls-port": str(self.ports[node]),
                "tls-cluster": "yes",
                "tls-auth-clients": "no",
                "tls-cert-file": self._tls.certificate("server"),
                "tls-key-file": self._tls.key("server"),
                "tls-ca-cert-file": self._tls.ca,
            }
        arguments = [word for name, value in options.items() for word in (f"--{name}", value)]
        with (folder / "log").open("ab") as log:
            self._servers[node] = subprocess.Popen(
                [installed_binary(), *arguments], stdout=log, stderr=log
            )
        _until(lambda: bool(self.client(node).ping()), f"node {node} answers")

    def add_replica(self, of: int) -> int:
        """A further node that follows one of the others; returns once all know that it does."""
        node = len(self.ports)
        self.ports.append(_free_port())
        self._servers.append(None)
        self.start(node)
        replica = self.client(node)
        replica.execute_command("CLUSTER", "MEET", "127.0.0.1", self.ports[of])
        master = _text(self.client(of).execute_command("CLUSTER", "MYID"))
        # It cannot follow whom it has not met yet.
        _until(lambda: bool(replica.execute_command("CLUSTER", "REPLICATE", master)), "they met")
        _until(lambda: replica.info("replication")["master_link_status"] == "up", "it follows")
        # Whoever does not know it would not vote for it.
        _until(lambda: all(self._replicas(n, master) for n in self._running()), "all know it")
        self.wait_whole()
        return node

    def wait_replicated(self, replica: int, of: int) -> None:
        """Until a replica has all that its master has written."""
        at = self.client(of).info("replication")["master_repl_offset"]
        _until(
            lambda: self.client(replica).info("replication")["slave_repl_offset"] >= at,
            "the replica has it all",
        )

    def wait_promoted(self, replica: int) -> None:
        """Until a replica has taken the place of its master, which is gone."""
        _until(lambda: self.client(replica).role()[0] == b"master", "its replica takes over")
        self.wait_whole()

    def kill(self, node: int) -> None:
        """SIGKILL: whatever it held is gone."""
        server = self._servers[node]
        assert server is not None, "it runs"
        server.kill()
        server.wait()
        self._servers[node] = None

    @contextmanager
    def frozen(self, node: int) -> Iterator[None]:
        """A node that keeps its connections and answers nothing."""
        server = self._servers[node]
        assert server is not None, "it runs"
        server.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            server.send_signal(signal.SIGCONT)
            self.wait_whole()

    def is_whole(self) -> bool:
        """Whether all nodes that run say that every slot has a node which is up."""
        for node in self._running():
            info = _text(self.client(node).execute_command("CLUSTER", "INFO"))
            if "cluster_state:ok" not in info or f"cluster_slots_ok:{_SLOTS}" not in info:
                return False
        return True

    def wait_whole(self) -> None:
        _until(self.is_whole, "all nodes agree")

    def node_of(self, slot: int) -> int:
        """Which node has a slot, by equal ranges."""
        return next(n for n, (first, last) in enumerate(self._ranges()) if first <= slot <= last)

    def move(self, slot: int, to: int, on_the_way: Callable[[], None] | None = None) -> None:
        """Move a slot and its keys to another node, as ``redis-cli --cluster reshard`` does.

        Args:
            on_the_way: called when some keys have moved, and when all have but not the slot.
        """
        at = self.node_of(slot)
        source, target = self.client(at), self.client(to)
        ids = {n: _text(self.client(n).execute_command("CLUSTER", "MYID")) for n in (at, to)}
        moved = 0
        target.execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[at])
        source.execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[to])
        password = self._options.get("requirepass")
        auth = ["AUTH", password] if password else []
        while keys := source.execute_command("CLUSTER", "GETKEYSINSLOT", slot, 10):
            source.execute_command(
                "MIGRATE", "127.0.0.1", self.ports[to], "", 0, 5_000, *auth, "KEYS", *keys
            )
            moved += len(keys)
            if on_the_way is not None and moved == len(keys):
                on_the_way()
        if on_the_way is not None:
            on_the_way()
        for node in (to, at, *self._running()):
            self.client(node).execute_command("CLUSTER", "SETSLOT", slot, "NODE", ids[to])

    def close(self) -> None:
        for server in self._servers:
            if server is not None:
                server.kill()
                server.wait()

    def _replicas(self, asked: int, master: str) -> list[Any]:
        """Whom a node knows as replicas of another."""
        found: list[Any] = self.client(asked).execute_command("CLUSTER", "REPLICAS", master)
        return found

    def _running(self) -> list[int]:
        return [node for node, server in enumerate(self._servers) if server is not None]

    def _ranges(self) -> list[tuple[int, int]]:
        return [(low, high - 1) for low, high in pairwise(self._edges)]

    def _join(self) -> None:
        for node, (first, last) in enumerate(self._ranges()):
            client = self.client(node)
            client.execute_command("CLUSTER", "SET-CONFIG-EPOCH", node + 1)
            client.execute_command("CLUSTER", "ADDSLOTSRANGE", first, last)
        for port in self.ports[1:]:
            self.client(0).execute_command("CLUSTER", "MEET", "127.0.0.1", port)
        self.wait_whole()


def _free_port() -> int:
    """A port that is free together with its bus's, which is 10,000 higher."""
    while True:
        with socket.socket() as one, socket.socket() as bus:
            one.bind(("127.0.0.1", 0))
            port = int(one.getsockname()[1])
            try:
                bus.bind(("127.0.0.1", port + 10_000))
            except (OSError, OverflowError):
                continue
            return port


def _until(is_so: Any, what: str) -> None:
    deadline_s = time.monotonic() + _WITHIN_S
    while True:
        try:
            if is_so():
                return
        except redis.RedisError:
            pass
        if time.monotonic() > deadline_s:
            raise TimeoutError(f"redis cluster: {what}: not within {_WITHIN_S:.0f} s")
        time.sleep(0.02)


def _text(answer: Any) -> str:
    return answer.decode() if isinstance(answer, bytes) else str(answer)
