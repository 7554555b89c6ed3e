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
from prometheus_client import CONTENT_TYPE_LATEST, Gauge, Histogram, generate_latest

import tenuto

LATENCY = Histogram("ranker_request_seconds", "From a request to its answer", ["policy"])
VERSION = Gauge("ranker_checkpoint_info", "1 for the checkpoint in use", ["version"])
AGE = Gauge("ranker_checkpoint_age_seconds", "Now - what the checkpoint has learnt up to")


Id = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]


class Asked(msgspec.Struct):
    """What a request holds; anything else is refused with a reason."""

    user_id: Id
    candidates: Annotated[list[Id], msgspec.Meta(min_length=1, max_length=10_000)]
    query: Annotated[str, msgspec.Meta(max_length=512)] = ""
    request_id: Annotated[str, msgspec.Meta(max_length=256)] = ""
    context: dict[str, float | str | list[float | str | None] | None] | None = None
    n: Annotated[int, msgspec.Meta(ge=1)] = 10


class Ranking:
    """Answers requests; one for each event loop."""

    def __init__(self, client: tenuto.AsyncTenuto, feed: tenuto.CheckpointFeed) -> None:
        self.client, self.feed = client, feed

    async def rank(self, http: web.Request) -> web.Response:
        """``POST /rank``: user_id, query, candidates, and context by name."""
        started, data = time.perf_counter(), await http.read()
        try:
            asked = msgspec.json.decode(data, type=Asked)
        except ValueError as error:
            return web.Response(status=400, text=str(error))
        candidates = asked.candidates
        request = tenuto.Request(
            asked.request_id or uuid.uuid4().hex,
            asked.user_id,
            asked.query,
            time.time_ns() // 1_000_000,
        )
        try:
            matrix = await self.client.read(request, candidates, asked.context, timeout_ms=50)
        except tenuto.StoreUnavailableError:
            return self._answer(request, candidates[: asked.n], "as_retrieved", started)
        except ValueError as error:
            # Context that is not as the application declares it.
            return web.Response(status=400, text=str(error))
        if not self.feed.version:
            scores, policy, model = {"score": matrix.column("item_ctr_1d")}, "smoothed_ctr", ""
            by = np.nan_to_num(scores["score"], nan=-1.0)
        else:
            ranker = self.feed.ranker
            scores, policy, model = ranker.score(matrix), "mmoe", ranker.version
            by = scores[ranker.objective]
        order = np.argsort(-by, kind="stable")[: asked.n]
        self.client.capture(
            request, shown=order, matrix=matrix, scores=scores, policy=policy, model=model
        )
        return self._answer(request, [candidates[at] for at in order], policy, started, model)

    def _answer(
        self,
        request: tenuto.Request,
        items: list[str],
        policy: str,
        started: float,
        model: str = "",
    ) -> web.Response:
        LATENCY.labels(policy).observe(time.perf_counter() - started)
        found = {"request_id": request.request_id, "items": items, "policy": policy, "model": model}
        return web.json_response(found)

    async def metrics(self, http: web.Request) -> web.Response:
        """``GET /metrics`` for Prometheus; the client's own (reads, states, age) are in it."""
        VERSION.clear()
        if self.feed.version:
            VERSION.labels(self.feed.version).set(1)
            AGE.set(self.feed.age_s)
        return web.Response(body=generate_latest(), headers={"Content-Type": CONTENT_TYPE_LATEST})


def application(app: str, checkpoints: str, model: str) -> web.Application:
    """The service, with a client and a feed that live as long as it does."""
    service, running = web.Application(), web.AppKey("ranking", list[Ranking])
    service[running] = []

    async def lifetime(service: web.Application) -> AsyncIterator[None]:
        with tenuto.CheckpointFeed(checkpoints, model=model) as feed:
            async with tenuto.connect_async(app) as client:
                service[running].append(Ranking(client, feed))
                yield

    service.cleanup_ctx.append(lifetime)
    service.router.add_post("/rank", lambda http: http.app[running][0].rank(http))
    service.router.add_get("/metrics", lambda http: http.app[running][0].metrics(http))
    return service


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--app", default="", help="application object; the settings' by default")
    parser.add_argument("--checkpoints", default="checkpoints", help="folder or URL of the store")
    parser.add_argument("--model", default="video", help="name of the model in the store")
    parser.add_argument("--port", type=int, default=8080)
    given = parser.parse_args()
    web.run_app(application(given.app, given.checkpoints, given.model), port=given.port)
