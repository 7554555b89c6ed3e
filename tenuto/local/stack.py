"""``start`` and the ``LocalStack`` that it returns: a broker and a Redis, up and answering.

The two kinds differ in what they run (``embedded``, ``kafka``, ``redis``), not in how they are
used. Crash tests kill and restart either server here.
"""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Literal

from tenuto.local import embedded, kafka, redis
from tenuto.local.processes import Child, Server, StackError, free_port

Kind = Literal["embedded", "kafka"]

_STOP_TIMEOUT_S = 10.0


class LocalStack:
    """A running broker and Redis; made by ``start``. Not thread-safe.

    Attributes:
        kind: ``"embedded"`` or ``"kafka"``.
        data_dir: holds ``broker/``, ``redis/`` and ``logs/``.
    """

    def __init__(
        self, kind: Kind, data_dir: Path, *, temporary: bool, broker: Server, redis: Server | None
    ) -> None:
        self.kind = kind
        self.data_dir = data_dir
        self._temporary = temporary
        self._owner_pid = os.getpid()
        self._children: list[Child] = []
        atexit.register(self._close_at_exit)
        try:
            # Both boot at once; a JVM takes seconds.
            self._broker = self._child(broker)
            self._redis = None if redis is None else self._child(redis)
            for child in self._children:
                child.wait_ready()
        except BaseException:
            # The logs stay: the error names one.
            self._temporary = False
            self.close()
            raise

    @property
    def bootstrap(self) -> str:
        """``"127.0.0.1:port"`` of the broker; stays the same over restarts."""
        return f"127.0.0.1:{self._broker.server.port}"

    @property
    def redis_url(self) -> str:
        """``"redis://127.0.0.1:port/0"``; stays the same over restarts."""
        return f"redis://127.0.0.1:{self._redis_child().server.port}/0"

    @property
    def broker_pid(self) -> int:
        return self._broker.pid

    @property
    def redis_pid(self) -> int:
        return self._redis_child().pid

    @property
    def broker_log(self) -> Path:
        return self._broker.server.log_path

    @property
    def redis_log(self) -> Path:
        return self._redis_child().server.log_path

    def is_alive(self) -> bool:
        """Whether every server of the stack runs."""
        return all(child.is_alive() for child in self._children)

    def kill_broker(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self._broker.kill()

    def restart_broker(self) -> None:
        """Start it on the same port and data and wait until it answers; stop it first if it runs.

        The embedded broker has no data: it comes back without topics, records and groups.
        """
        self._broker.restart(_STOP_TIMEOUT_S)

    def kill_redis(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self._redis_child().kill()

    def restart_redis(self) -> None:
        """Start it on the same port and data and wait until it answers; stop it first if it runs.

        Without ``persist`` it comes back empty.
        """
        self._redis_child().restart(_STOP_TIMEOUT_S)

    def close(self) -> None:
        """Stop both servers, with SIGKILL after ten seconds, and remove a temporary data folder."""
        atexit.unregister(self._close_at_exit)
        for child in self._children:
            child.terminate()
        for child in self._children:
            child.wait_stopped(_STOP_TIMEOUT_S)
        if self._temporary:
            shutil.rmtree(self.data_dir, ignore_errors=True)

    def __enter__(self) -> LocalStack:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _child(self, server: Server) -> Child:
        child = Child(server)
        self._children.append(child)
        return child

    def _redis_child(self) -> Child:
        if self._redis is None:
            raise StackError("redis: this stack was started with redis=False")
        return self._redis

    def _close_at_exit(self) -> None:
        # A forked worker inherits the exit handler, but not the servers.
        if os.getpid() == self._owner_pid:
            self.close()


def start(
    kind: Kind,
    *,
    data_dir: Path | None = None,
    kafka_home: Path | None = None,
    redis: bool = True,
    persist: bool = False,
    partitions_default: int = 4,
) -> LocalStack:
    """Start a broker and a Redis on free loopback ports and return once both answer.

    Both die with this process, also when it is killed with -9. Use the result as a context manager
    or ``close()`` it.

    Args:
        kind: ``"embedded"`` runs what ``tenuto[local]`` brought (a broker that forgets everything
            when it stops); ``"kafka"`` runs Apache Kafka and the redis-server on PATH.
        data_dir: where the servers keep data and logs; it outlives the stack. By default a
            temporary folder, removed by ``close()``.
        kafka_home: an Apache Kafka, by default ``$KAFKA_HOME``; for the kafka kind only.
        redis: False for a broker alone.
        persist: Redis keeps an append-only file in ``data_dir``; otherwise a restart empties it.
        partitions_default: partitions of a topic created without a number.

    Raises:
        StackError: something is missing (the message says what to install), or a server did not
            come up (the message names its log, which is kept).
    """
    root = Path(tempfile.mkdtemp(prefix="tenuto-")) if data_dir is None else data_dir.absolute()
    try:
        broker, store = _servers(kind, root, kafka_home, partitions_default, redis, persist)
    except StackError:
        if data_dir is None:
            shutil.rmtree(root)
        raise
    return LocalStack(kind, root, temporary=data_dir is None, broker=broker, redis=store)


def _servers(
    kind: Kind,
    root: Path,
    kafka_home: Path | None,
    partitions_default: int,
    with_redis: bool,
    persist: bool,
) -> tuple[Server, Server | None]:
    # Neighbours: the broker, Kafka's controller, Redis.
    port = free_port(consecutive=3)
    if kind == "embedded":
        find_redis = redis.bundled_binary
        broker = embedded.server(
            port=port, log_path=root / "logs/broker.log", partitions_default=partitions_default
        )
    elif kind == "kafka":
        find_redis = redis.installed_binary
        broker = kafka.server(
            port=port,
            data=root / "broker",
            log_path=root / "logs/broker.log",
            home=kafka_home,
            partitions_default=partitions_default,
        )
    else:
        raise StackError(f"no stack of kind {kind!r}: 'embedded' or 'kafka'")
    if not with_redis:
        return broker, None
    store = redis.server(
        binary=find_redis(),
        port=port + 2,
        data=root / "redis",
        log_path=root / "logs/redis.log",
        persist=persist,
    )
    return broker, store
