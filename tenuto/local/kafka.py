"""The real broker: Apache Kafka, one KRaft node, its data kept between starts.

``KAFKA_HOME`` is either an unpacked Apache Kafka (``bin/kafka-server-start.sh``; the settings are
written here) or a folder with an executable ``kafka-server --port P --data DIR --partitions N
--heap H`` that does the same and becomes the broker's process.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from tenuto.local.processes import Server, StackError
from tenuto.local.readiness import broker_answers

_HEAP = "256m"
_READY_TIMEOUT_S = 90.0

# A killed broker may register again only when its old session has run out: 9 s by default.
_SESSION = {"broker.session.timeout.ms": 3_000, "broker.heartbeat.interval.ms": 500}

# Formatting is a JVM of its own; as one command the child's pid is the shell's, then the broker's.
_FORMAT_AND_START = """
set -e
[ -e "$2/log/meta.properties" ] || "$1/bin/kafka-storage.sh" format --ignore-formatted \
  --cluster-id AAAAAAAAAAAAAAAAAAAAAA --config "$2/server.properties"
exec "$1/bin/kafka-server-start.sh" "$2/server.properties"
"""


def server(
    *, port: int, data: Path, log_path: Path, home: Path | None, partitions_default: int
) -> Server:
    """Apache Kafka on ``port`` and its controller on ``port + 1``.

    Raises:
        StackError: no Kafka at ``home`` (or ``KAFKA_HOME``), or no java.
    """
    home = _home(home)
    env = _environment()
    data = data.absolute()
    data.mkdir(parents=True, exist_ok=True)
    script = home / "kafka-server"
    if os.access(script, os.X_OK):
        argv = [str(script), "--port", str(port), "--data", str(data)]
        argv += ["--partitions", str(partitions_default), "--heap", _HEAP]
        argv += [f"{key}={value}" for key, value in _SESSION.items()]
    else:
        (data / "server.properties").write_text(_settings(port, data, partitions_default))
        argv = ["/bin/sh", "-c", _FORMAT_AND_START, "kafka", str(home), str(data)]
        env["KAFKA_HEAP_OPTS"] = f"-Xms{_HEAP} -Xmx{_HEAP}"
        env["LOG_DIR"] = str(log_path.parent.absolute())
    return Server(
        name="kafka broker",
        port=port,
        argv=tuple(argv),
        log_path=log_path,
        answers=lambda _pid: broker_answers(port),
        ready_timeout_s=_READY_TIMEOUT_S,
        env=env,
    )


def _home(home: Path | None) -> Path:
    if home is None:
        if not os.environ.get("KAFKA_HOME"):
            raise StackError("kafka broker: KAFKA_HOME is not set: point it at an Apache Kafka")
        home = Path(os.environ["KAFKA_HOME"])
    home = home.absolute()
    if not any(
        os.access(home / start, os.X_OK) for start in ("kafka-server", "bin/kafka-server-start.sh")
    ):
        raise StackError(
            f"kafka broker: {home} has neither kafka-server nor bin/kafka-server-start.sh: "
            "point KAFKA_HOME at an unpacked Apache Kafka (kafka.apache.org/downloads)"
        )
    return home


def _environment() -> dict[str, str]:
    env = dict(os.environ)
    if env.get("JAVA_HOME"):
        env["PATH"] = os.pathsep.join([f"{env['JAVA_HOME']}/bin", env.get("PATH", "")])
    if shutil.which("java", path=env.get("PATH")) is None:
        raise StackError("kafka broker: no java on PATH: install Java 17 or newer")
    return env


def _settings(port: int, data: Path, partitions_default: int) -> str:
    settings = {
        "process.roles": "broker,controller",
        "node.id": 1,
        "controller.quorum.voters": f"1@127.0.0.1:{port + 1}",
        "controller.listener.names": "CONTROLLER",
        "listeners": f"PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{port + 1}",
        "advertised.listeners": f"PLAINTEXT://127.0.0.1:{port}",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "log.dirs": data / "log",
        "log.retention.ms": -1,
        "num.partitions": partitions_default,
        "auto.create.topics.enable": "false",
        "group.initial.rebalance.delay.ms": 0,
        "offsets.topic.replication.factor": 1,
        "offsets.topic.num.partitions": 4,
        "transaction.state.log.replication.factor": 1,
        "transaction.state.log.min.isr": 1,
        "transaction.state.log.num.partitions": 4,
        **_SESSION,
    }
    return "".join(f"{key}={value}\n" for key, value in settings.items())
