"""How a stream worker is built and run: a crash-only Faust app, and a process that ends with it.

An exception anywhere ends the process with a non-zero code and commits nothing past the failure; a
process manager restarts it. Logging is the caller's, there is no banner and no web server.
"""

from __future__ import annotations

import gc
import os
import signal
import ssl
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import faust
import mode
from mode.supervisors import CrashingSupervisor

from tenuto.streams.transport import BatchSchema

# How long a crashed worker may take to close its connections before it is ended the hard way.
CRASH_GRACE_S = 20.0
# How soon a worker learns at most that its group changes, however long a session is.
HEARTBEAT_S = 1.0
# How soon a group whose leader saw no topics, as when they are made anew, deals them out again.
METADATA_AGE_S = 10.0


def faust_app(
    name: str,
    *,
    brokers: str | Sequence[str],
    credentials: Any = None,
    ssl_context: ssl.SSLContext | None = None,
    web_port: int = 6066,
    max_poll_records: int = 20_000,
    max_partition_fetch_bytes: int = 4 * 1024 * 1024,
    commit_interval_s: float = 1.0,
    session_timeout_s: float = 10.0,
    rebalance_timeout_s: float = 30.0,
    fetch_max_wait_ms: int = 500,
    **settings: Any,
) -> faust.App:
    """A Faust app for agents that read batches; ``install_batches`` is the next call.

    Args:
        name: of the app, which is its Kafka consumer group too.
        brokers: ``"host:port"``s, as a sequence or separated by commas.
        credentials: ``faust.SASLCredentials`` and its like.
        ssl_context: for TLS without credentials.
        web_port: nothing listens on it unless ``web_enabled=True`` is passed; on loopback then.
        max_poll_records: bounds the records of one fetch, over all partitions.
        max_partition_fetch_bytes: bounds what one request brings of a partition.
        commit_interval_s: how often finished batches are committed.
        session_timeout_s: how long after a worker's death its partitions are given away; half of
            it is how long a stop or a rebalance waits for the batch in hand.
        rebalance_timeout_s: how long the other workers wait for one to give its partitions up.
        fetch_max_wait_ms: how long the broker may hold a fetch that has nothing to answer; a fetch
            in flight is not recalled by a seek, so it also bounds how long an idle partition's
            seek waits.
        settings: further Faust settings, which win over those made here.
    """
    hosts = brokers.split(",") if isinstance(brokers, str) else brokers
    defaults: dict[str, Any] = {
        "broker": [f"kafka://{host.strip()}" for host in hosts],
        "broker_credentials": credentials,
        "ssl_context": ssl_context,
        "broker_max_poll_records": max_poll_records,
        "broker_commit_interval": commit_interval_s,
        "broker_session_timeout": session_timeout_s,
        # That another worker leaves or joins is learnt with the next heartbeat.
        "broker_heartbeat_interval": min(HEARTBEAT_S, session_timeout_s / 4),
        "broker_rebalance_timeout": rebalance_timeout_s,
        "consumer_max_fetch_size": max_partition_fetch_bytes,
        "consumer_auto_offset_reset": "earliest",
        "consumer_metadata_max_age_ms": int(METADATA_AGE_S * 1000),
        "agent_supervisor": CrashingSupervisor,
        "Schema": BatchSchema,
        "store": "memory://",
        # The buffer counts batches.
        "stream_buffer_maxsize": 4,
        # Means our own bounded wait for the batch in hand (BatchConsumer.wait_empty).
        "stream_wait_empty": True,
        "topic_allow_declare": False,
        "topic_disable_leader": True,
        "web_enabled": False,
        "web_bind": "127.0.0.1",
        "web_host": "127.0.0.1",
        "web_port": web_port,
    }
    app = _App(name, **(defaults | settings))
    app.fetch_max_wait_ms = fetch_max_wait_ms
    return app


def run(app: faust.App) -> NoReturn:
    """Run ``app`` in this process until SIGTERM or SIGINT (exit code 0) or a crash (1).

    On a signal the batch in hand is finished and all that is finished is committed. Must be called
    in the main thread, with logging configured.
    """
    # A batch is tens of thousands of objects without cycles: at the default thresholds collecting
    # them costs as much as fetching does.
    gc.freeze()
    gc.set_threshold(100_000, 50, 100)
    # One thread waits for servers, one computes: at the default 5 ms each answer would wait as long
    # for its turn, which is longer than the answers of a whole batch take.
    sys.setswitchinterval(0.001)
    _Worker(app, quiet=True, override_logging=False, redirect_stdouts=False).run()


class _App(faust.App):  # type: ignore[misc]
    fetch_max_wait_ms: int

    def _create_directories(self) -> None:
        """Nothing: without tables there is nothing to keep in the working directory."""


class _Worker(mode.Worker):  # type: ignore[misc]
    def run(self) -> NoReturn:
        (app,) = self.services
        app.in_worker = True
        self.execute_from_commandline()
        raise AssertionError("unreachable: the worker ends the process")

    def _install_signal_handlers_unix(self) -> None:
        # mode would also print all stacks on SIGUSR1 and open a debugger on SIGUSR2.
        self.loop.add_signal_handler(signal.SIGINT, self._stop_on, self._on_sigint)
        self.loop.add_signal_handler(signal.SIGTERM, self._stop_on, self._on_sigterm)

    def _stop_on(self, handler: Callable[[], None]) -> None:
        # The batch in hand may take half a session, and so may the commit after it.
        (app,) = self.services
        self._end_within(app.conf.broker_session_timeout + CRASH_GRACE_S)
        handler()

    def _crash(self, reason: BaseException) -> None:
        if not self.crashed:
            self._end_within(CRASH_GRACE_S)
        super()._crash(reason)

    def _end_within(self, seconds: float) -> None:
        """End the hard way then: closing connections can hang on the very thing that broke."""
        end = threading.Timer(seconds, os._exit, (1,))
        end.daemon = True
        end.start()
