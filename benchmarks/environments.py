"""Virtual environments of the peers: pinned, apart from ours, made when they are first needed.

A peer's script is run by its own interpreter, gets what it needs as one JSON argument, and says
what it found as JSON in its last line. Nothing of it is imported here.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

PEERS = Path(__file__).parent / "peers"
HOME = Path(__file__).parents[1] / ".bench"
"""Where the environments lie; not part of the repository."""


class PeerError(RuntimeError):
    """A peer could not be set up, or ended with an error."""


@cache
def python(peer: str) -> str:
    """The interpreter of a peer's environment, which is made if it is not there.

    A peer without requirements of its own runs in ours.

    Raises:
        PeerError: its requirements cannot be installed.
    """
    wanted = PEERS / peer / "requirements.txt"
    if not wanted.exists():
        return sys.executable
    folder = HOME / peer
    interpreter, stamp = folder / "bin/python", folder / "installed"
    digest = hashlib.sha256(wanted.read_bytes()).hexdigest()
    if stamp.exists() and stamp.read_text() == digest:
        return str(interpreter)
    print(f"Setting up {peer} in {folder.relative_to(HOME.parent)}", flush=True)
    for command in (
        [sys.executable, "-m", "venv", "--clear", str(folder)],
        [str(interpreter), "-m", "pip", "--disable-pip-version-check", "--quiet", "install",
         "--requirement", str(wanted)],
    ):  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise PeerError(f"{peer}: {done.stderr[-2000:]}")
    stamp.write_text(digest)
    return str(interpreter)


def run(
    peer: str,
    script: str,
    asked: dict[str, Any],
    *,
    timeout_s: float = 900.0,
) -> dict[str, Any]:
    """Run ``benchmarks/peers/PEER/SCRIPT.py`` and return what its last line says.

    Raises:
        PeerError: it ended with an error, or took longer than ``timeout_s``.
    """
    path = PEERS / peer / f"{script}.py"
    command = [python(peer), str(path), json.dumps(asked)]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=timeout_s, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise PeerError(f"{peer}/{script}: took more than {timeout_s:.0f} s") from error
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        # Java's stacks say little, and much of it.
        told = [line for line in done.stderr.splitlines() if not line.startswith("\tat ")]
        raise PeerError(f"{peer}/{script}: {chr(10).join(told)[-3000:]}{done.stdout[-1000:]}")
    answer: dict[str, Any] = json.loads(lines[-1])
    return answer
