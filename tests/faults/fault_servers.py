"""A schedule's broker and Redis: the Redis its own always, the broker where it is hurt."""

from __future__ import annotations

import shutil
import sys
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import redis
from fault_proxy import Proxy

from tenuto.local import embedded, kafka
from tenuto.local import redis as local_redis
from tenuto.local.processes import Child, Server, StackError, free_port


class Servers:
    """A broker and a Redis, each behind a proxy where a schedule cuts connections.

    Args:
        stack: embedded or kafka.
        folder: for data and logs.
        shared_broker: a running Apache Kafka to use, or "" for a broker of its own.
        persist: whether Redis keeps an append-only file.
        proxied: ``redis`` and ``broker`` where connections are cut.
    """

    def __init__(
        self, stack: str, folder: Path, *, shared_broker: str, persist: bool, proxied: set[str]
    ) -> None:
        self.folder = folder
        self._exit = ExitStack()
        self.redis_proxy: Proxy | None = None
        self.broker_proxy: Proxy | None = None
        port = free_port(consecutive=3)
        self.broker: Child | None = None
        try:
            if not shared_broker:
                self.broker = self._child(self._broker(stack, port, "broker" in proxied))
            self.redis = self._child(
                local_redis.server(
                    binary=_redis_binary(stack),
                    port=port + 2,
                    data=folder / "redis",
                    log_path=folder / "logs/redis.log",
                    persist=persist,
                )
            )
            for child in (self.broker, self.redis):
                if child is not None:
                    child.wait_ready()
            if "redis" in proxied:
                self.redis_proxy = self._proxy(port + 2)
        except BaseException:
            self._exit.close()
            raise
        redis_port = self.redis_proxy.port if self.redis_proxy else port + 2
        self.redis_url = f"redis://127.0.0.1:{redis_port}/0"
        self.direct_redis_url = f"redis://127.0.0.1:{port + 2}/0"
        self.bootstrap = shared_broker or f"127.0.0.1:{self._advertised or port}"

    def client(self) -> redis.Redis:
        """A client of Redis that goes around the proxy."""
        return redis.Redis.from_url(self.direct_redis_url)

    def restart_redis(self, *, keep: bool, rdb: Path | None = None, cut_bytes: int = 0) -> None:
        """Kill it and start it anew: with its files or without, from a dump, or cut short."""
        self.kill_redis()
        self.start_redis(keep=keep, rdb=rdb, cut_bytes=cut_bytes)

    def kill_redis(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self.redis.kill()

    def start_redis(self, *, keep: bool, rdb: Path | None = None, cut_bytes: int = 0) -> None:
        """Start it anew after ``kill_redis``."""
        data = self.folder / "redis"
        if not keep:
            shutil.rmtree(data)
            data.mkdir()
        if rdb is not None:
            shutil.copy(rdb, data / "dump.rdb")
        if cut_bytes:
            (log,) = data.glob("appendonlydir/*.incr.aof")
            size = log.stat().st_size
            with log.open("r+b") as file:
                file.truncate(max(0, size - cut_bytes))
        self.redis.restart(1.0)

    def dump_redis(self) -> Path:
        """A dump of what it holds now."""
        self.client().save()
        return shutil.copy(self.folder / "redis/dump.rdb", self.folder / "older.rdb")

    def close(self) -> None:
        """Stop them."""
        self._exit.close()

    def __enter__(self) -> Servers:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    _advertised = 0

    def _broker(self, stack: str, port: int, proxied: bool) -> Server:
        if proxied:
            self.broker_proxy = self._proxy(port)
            self._advertised = self.broker_proxy.port
        logs = self.folder / "logs/broker.log"
        if stack == "embedded":
            server = embedded.server(port=port, log_path=logs, partitions_default=1)
            if proxied:
                script = str(Path(__file__).with_name("fault_broker.py"))
                argv = (sys.executable, script, str(port), str(self._advertised), "1")
                server = replace(server, argv=argv)
            return server
        server = kafka.server(
            port=port, data=self.folder / "broker", log_path=logs, home=None, partitions_default=1
        )
        if not server.argv[0].endswith("kafka-server"):
            raise StackError("a broker of its own: needs a KAFKA_HOME with a kafka-server script")
        own = ["log.cleaner.backoff.ms=200"]
        if proxied:
            own.append(f"advertised.listeners=PLAINTEXT://127.0.0.1:{self._advertised}")
        return replace(server, argv=(*server.argv, *own))

    def _child(self, server: Server) -> Child:
        child = Child(server)
        self._exit.callback(_stop, child)
        return child

    def _proxy(self, port: int) -> Proxy:
        proxy = Proxy(port)
        self._exit.callback(proxy.close)
        return proxy


def shared_kafka(folder: Path) -> Child:
    """An Apache Kafka that many schedules use, each in a namespace of its own."""
    child = Child(
        kafka.server(
            port=free_port(consecutive=2),
            data=folder / "broker",
            log_path=folder / "logs/broker.log",
            home=None,
            partitions_default=1,
        )
    )
    try:
        child.wait_ready()
    except BaseException:
        _stop(child)
        raise
    return child


def _stop(child: Child) -> None:
    # A server that somebody has frozen would not hear it.
    started = time.monotonic()
    child.terminate()
    child.wait_stopped(max(0.1, 5.0 - (time.monotonic() - started)))


def _redis_binary(stack: str) -> str:
    if stack == "embedded":
        return local_redis.bundled_binary()
    return local_redis.installed_binary()
