"""Online reads: the features of a request's candidates, while ingest runs at half of its load.

Beside a bare MGET of the very bytes that our reader asks for, Feast's SDK with the same values in
the same Redis, and one hash per candidate (``HGETALL``), as a service written by hand has it.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import numpy as np
import redis

from benchmarks import environments
from benchmarks.deployment import Deployment, cpu_s, stack_kind
from benchmarks.harness import OURS, Bench, Figures, percentiles
from benchmarks.pace import Pace
from benchmarks.peers.timing import timed
from benchmarks.world import World
from tenuto import local
from tenuto.features.reader import Request

TITLE = "Online read: features of a request's candidates"
CANDIDATES, FEW = (1, 50, 200, 1_000), (50, 200)
CLIENTS = (1, 16)
USER, QUERY = "user-0000001", "query words 0"
_TIMEOUT_MS = 5_000.0


def run(bench: Bench) -> None:
    """The default preset and the full one; idle, and while events arrive."""
    kind = stack_kind()
    log = World(bench.size(400_000, 60_000)).log()
    seconds, candidates = bench.size(2, 1), CANDIDATES if not bench.short else FEW
    with local.start(kind) as stack:
        for app in ("small", "full"):
            deployment = Deployment(stack, app)
            deployment.publish(log.records)
            highest = deployment.catch_up(log.total)["events_per_s"]
            bench.note(
                f"{app}: ingest alone took {highest:,.0f} events/s; half of it while reading"
            )
            for load in ("idle", "half"):
                with ExitStack() as open_ones:
                    open_ones.enter_context(deployment.workers("features"))
                    if load == "half":
                        open_ones.enter_context(Pace(deployment, highest / 2))
                        time.sleep(2.0)
                    _read(bench, deployment, f"{app}, {load}", candidates, seconds)
            deployment.redis.flushall()
    _goals(bench)


def _read(
    bench: Bench, deployment: Deployment, case: str, candidates: Sequence[int], seconds: float
) -> None:
    client, request = deployment.client(), _now()
    bare = redis.Redis.from_url(deployment.stack.redis_url)
    items = [f"item-{number:08d}" for number in range(max(candidates))]
    matrix = client.read(request, items, timeout_ms=_TIMEOUT_MS)
    names = [column.name for column in matrix.columns]
    texts = [[f"{value:.9g}" for value in row] for row in matrix.values.tolist()]
    with bare.pipeline(transaction=False) as pipe:
        for item, row in zip(items, texts, strict=True):
            pipe.hset(f"hash:{item}", mapping=dict(zip(names, row, strict=True)))
        pipe.execute()

    def ours(n: int) -> Callable[[], object]:
        return lambda: client.read(_now(), items[:n], timeout_ms=_TIMEOUT_MS)

    def mget(n: int) -> Callable[[], object]:
        keys = client.reader.plan(request, items[:n], {}).keys
        return lambda: bare.mget(keys)

    def hashes(n: int) -> Callable[[], object]:
        def read() -> object:
            with bare.pipeline(transaction=False) as pipe:
                for item in items[:n]:
                    pipe.hgetall(f"hash:{item}")
                rows: list[dict[bytes, bytes]] = pipe.execute()
            return np.array([[float(v) for v in row.values()] for row in rows], np.float32)

        return read

    found = np.asarray(hashes(max(candidates))())
    bench.check("hgetall: values", found.tobytes(), matrix.values.tobytes())
    sides = {OURS: ours, "MGET": mget, "HGETALL": hashes}
    pid = deployment.stack.redis_pid
    bench.interleave(
        {
            f"{case}, {n} × {clients}: {side}": partial(_timed, make(n), clients, seconds, pid)
            for n in candidates for clients in CLIENTS for side, make in sides.items()
        },
        peer=partial(
            _feast, bench, deployment, case, matrix, items, names, candidates, seconds
        ),
    )  # fmt: skip
    client.close()


def _now() -> Request:
    return Request("r", USER, QUERY, int(time.time() * 1_000))


def _feast(
    bench: Bench, deployment: Deployment, case: str, matrix: Any, items: Sequence[str],
    names: Sequence[str], candidates: Sequence[int], seconds: float,
) -> None:  # fmt: skip
    """The same values as one view per entity, as a Feast user has them."""
    entities = {view.entity.name: view.entity for view in deployment.features.layout.views}
    views: dict[str, Any] = {}
    for name, entity in entities.items():
        own = [at for at, column in enumerate(names) if column.startswith(f"{name}_")
               and not any(column.startswith(f"{other}_") for other in entities
                           if other.startswith(f"{name}_"))]  # fmt: skip
        if not entity.key or not own:
            continue
        whole = {"item_id": items, "user_id": [USER] * len(items), "query": [QUERY] * len(items)}
        rows = {key: list(whole[key]) for key in entity.key}
        rows |= {names[at]: matrix.values[:, at].tolist() for at in own}
        views[name] = {"keys": list(entity.key), "columns": [names[at] for at in own], "rows": rows}
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(views, file)
        file.flush()
        found = environments.run("feast", "read", {
            "redis": deployment.stack.redis_url.removeprefix("redis://").partition("/")[0],
            "views": file.name, "candidates": candidates, "clients": CLIENTS, "seconds": seconds,
            "entities": [{"item_id": i, "user_id": USER, "query": QUERY} for i in items],
        })  # fmt: skip
    for one in found["told"]:
        side = f"{case}, {one['candidates']} × {one['clients']}: Feast"
        bench.measure(side, _figures(one["took_ms"], one["seconds"]))
    for view in views.values():
        for column in view["columns"]:
            told = np.array(found["values"][column], np.float32)
            right = np.array(view["rows"][column], np.float32)
            bench.check("Feast: values", told.tobytes(), right.tobytes())


def _timed(read: Callable[[], object], clients: int, seconds: float, redis_pid: int) -> Figures:
    before_s = cpu_s(redis_pid)
    took_ms, lasted_s = timed(read, clients, seconds)
    spent_s = cpu_s(redis_pid) - before_s
    # At half load ingest's own work is in it.
    return {**_figures(took_ms, lasted_s), "redis_us_per_read": spent_s / len(took_ms) * 1e6}


def _figures(took_ms: Sequence[float], seconds: float) -> Figures:
    return {**percentiles(took_ms), "requests_per_s": len(took_ms) / seconds}


def _goals(bench: Bench) -> None:
    result = bench.result

    def figure(load: str, side: str, metric: str) -> float | None:
        return result.median(f"small, {load}, 200 × 1: {side}", metric)

    busy, idle = figure("half", OURS, "p99_ms"), figure("idle", OURS, "p99_ms")
    bench.at_most("200 candidates at half load: p99 ≤ 3 ms", busy, 3.0)
    bench.at_most("200 candidates, no ingest: p99 ≤ 1.5 ms", idle, 1.5)
    ours = figure("half", OURS, "p50_ms")
    bare, feast = figure("half", "MGET", "p50_ms"), figure("half", "Feast", "p50_ms")
    if ours and bare:
        bench.at_most("200 candidates: ≤ 2× a bare MGET of the same bytes (p50)", ours / bare, 2.0)
    if ours and feast:
        bench.at_least("200 candidates: ≥ 50× faster than Feast (p50)", feast / ours, 50.0)
