"""A small serving tier: read features, score with the live ranker, order, capture, answer.

    python examples/serving.py --checkpoints checkpoints --port 8080
    curl -d '{"user_id": "u1", "query": "jazz", "candidates": ["a", "b", "c"]}' :8080/rank

Servers and application as in ``tenuto.toml`` or ``TENUTO_…``. Until a first checkpoint is there,
and when features cannot be read in time, it answers with what it can, and says so in ``policy``.
"""

from __future__ import annotations

import argparse
import time
import uuid
from collections.abc import AsyncIterator
from typing import Annotated

import msgspec
import numpy as np
from aiohttp import web
from prometheus_client import Gauge, Histogram, generate_latest

import tenuto

LATENCY = Histogram("ranker_request_seconds", "From a request to its answer", ["policy"])
VERSION = Gauge("ranker_checkpoint_info", "1 for the checkpoint in use", ["version"])
AGE = Gauge("ranker_checkpoint_age_seconds", "Now - what the checkpoint has learnt up to")

Id = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
routes = web.RouteTableDef()
client = web.AppKey("client", tenuto.AsyncTenuto)
feed = web.AppKey("feed", tenuto.CheckpointFeed)


class Asked(msgspec.Struct):
    """What a request holds; anything else is refused with a reason."""

    user_id: Id
    candidates: Annotated[list[Id], msgspec.Meta(min_length=1, max_length=10_000)]
    query: Annotated[str, msgspec.Meta(max_length=512)] = ""
    request_id: Annotated[str, msgspec.Meta(max_length=256)] = ""
    context: dict[str, float | str | list[float | str | None] | None] | None = None
    n: Annotated[int, msgspec.Meta(ge=1)] = 10


@routes.post("/rank")
async def rank(http: web.Request) -> web.Response:
    started, app = time.perf_counter(), http.app
    order, policy, model = None, "as_retrieved", ""
    try:
        asked = msgspec.json.decode(await http.read(), type=Asked)
        items, now_ms = asked.candidates, time.time_ns() // 1_000_000
        request_id = asked.request_id or uuid.uuid4().hex
        request = tenuto.Request(request_id, asked.user_id, asked.query, now_ms)
        matrix = await app[client].read(request, items, asked.context, timeout_ms=50)
    except tenuto.StoreUnavailableError:
        order = np.arange(len(items))
    except (ValueError, RecursionError) as error:
        # No JSON of that shape, or context that is not as the application declares it.
        return web.Response(status=400, text=str(error))
    if order is None:
        if app[feed].version:
            ranker = app[feed].ranker
            scores, policy, model = ranker.score(matrix), "mmoe", ranker.version
            by = scores[ranker.objective]
        else:
            policy, by = "smoothed_ctr", np.nan_to_num(matrix.column("item_ctr_1d"), nan=-1.0)
            scores = {"score": by}
        order = np.argsort(-by, kind="stable")[: asked.n]
        app[client].capture(
            request, shown=order, matrix=matrix, scores=scores, policy=policy, model=model
        )
    LATENCY.labels(policy).observe(time.perf_counter() - started)
    shown = [items[at] for at in order[: asked.n]]
    answer = {"request_id": request_id, "items": shown, "policy": policy, "model": model}
    return web.json_response(answer)


@routes.get("/metrics")
async def metrics(http: web.Request) -> web.Response:
    VERSION.clear()
    if http.app[feed].version:
        VERSION.labels(http.app[feed].version).set(1)
        AGE.set(http.app[feed].age_s)
    return web.Response(body=generate_latest(), content_type="text/plain")


async def connected(app: web.Application) -> AsyncIterator[None]:
    async with app[client]:
        yield
        app[feed].close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--app", default="", help="application object; the settings' by default")
    parser.add_argument("--checkpoints", default="checkpoints", help="folder or URL of the store")
    parser.add_argument("--model", default="video", help="name of the model in the store")
    parser.add_argument("--host", default="127.0.0.1", help="to listen at; 0.0.0.0 for everybody")
    parser.add_argument("--port", type=int, default=8080)
    given = parser.parse_args()
    service = web.Application()
    service[client] = tenuto.connect_async(given.app)
    service[feed] = tenuto.CheckpointFeed(given.checkpoints, model=given.model)
    service.add_routes(routes)
    service.cleanup_ctx.append(connected)
    web.run_app(service, host=given.host, port=given.port)
