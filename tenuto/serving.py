"""What a ranking engineer imports: read features, capture what was shown, send events.

``connect`` gives a client with the application's own declarations and settings. It opens nothing
before it is used, loads neither torch nor Faust, and may be shared by threads and inherited by
forked workers.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tenuto.application import load_app
from tenuto.features.client import AsyncFeatureClient, FeatureClient
from tenuto.features.deadline import DeadlineExceededError, StoreUnavailableError
from tenuto.features.events import Event
from tenuto.features.matrix import Matrix
from tenuto.features.progress import BucketCountError, PartitionCountError
from tenuto.features.reader import ContextError, Reader, Request
from tenuto.features.sums import AsOfTooOldError
from tenuto.platform import Platform
from tenuto.serving_metrics import default_metrics
from tenuto.settings import Settings, SettingsError, load
from tenuto.snapshot import record
from tenuto.streams.capture import Capture
from tenuto.streams.outbox import Sending, Sent
from tenuto.streams.producer import AsyncEventProducer, EventProducer
from tenuto.streams.topic_names import TopicNames

__all__ = [
    "AsOfTooOldError",
    "AsyncTenuto",
    "BucketCountError",
    "CaptureError",
    "ContextError",
    "DeadlineExceededError",
    "PartitionCountError",
    "Request",
    "SettingsError",
    "StoreUnavailableError",
    "Tenuto",
    "connect",
    "connect_async",
]


class CaptureError(ValueError):
    """What was shown, or its scores or positions, does not fit the matrix that it came from."""


def connect(
    app: str | Platform = "",
    *,
    settings: Settings | None = None,
    config: str | Path | None = None,
    env: Mapping[str, str] | None = None,
) -> Tenuto:
    """A client for a serving tier; nothing is opened before it is used.

    Args:
        app: the application object, or its ``module:object``; the settings' own by default.
        settings: instead of those of ``config`` and ``env``.
        config: the TOML file; ``tenuto.toml`` in the working directory where there is one.
        env: the process's environment by default.

    Raises:
        SettingsError: a wrong setting, or no such application; names it and what would be right.

    Example:
        >>> t = connect("myapp.ranking:app")
        >>> m = t.read(request, candidates, {"recall_score": scores}, timeout_ms=8)
        >>> p = ranker.score(m)
        >>> t.capture(request, shown=order, matrix=m, scores=p, policy="mmoe")
    """
    return Tenuto(*_found(app, settings, config, env))


def connect_async(
    app: str | Platform = "",
    *,
    settings: Settings | None = None,
    config: str | Path | None = None,
    env: Mapping[str, str] | None = None,
) -> AsyncTenuto:
    """As :func:`connect`, for an asyncio server: one client per event loop."""
    return AsyncTenuto(*_found(app, settings, config, env))


class _Serving:
    """What both clients share."""

    def __init__(self, platform: Platform, settings: Settings) -> None:
        self.platform = platform
        self.settings = settings
        # The layout must be the workers', or its keys are not theirs: so the rules of time are.
        features = platform.feature_set(settings.time.rules())
        self._reader = Reader(
            features, settings.kafka.partitions, settings.namespace, settings.redis.buckets
        )
        self._connection = settings.kafka.kafka_python()
        self._metrics = default_metrics()
        self._capture = Capture(
            self._connection,
            TopicNames(settings.namespace).snapshots,
            sample_rate=settings.capture.sample_rate,
            buffer=settings.capture.buffer,
            buffer_bytes=settings.capture.buffer_mb << 20,
            max_wait_s=settings.time.rules().snapshot_lateness_ms / 1_000,
            max_bytes=settings.limits.snapshot_bytes,
        )

    def capture(
        self,
        request: Request,
        *,
        shown: Sequence[str] | Sequence[int],
        matrix: Matrix,
        scores: Mapping[str, Any] | None = None,
        policy: str = "",
        slice: str = "",
        model: str = "",
        propensity: float | None = None,
        positions: Sequence[int] | None = None,
    ) -> bool:
        """Write what a request saw and showed; never waits for Kafka.

        Args:
            request: as it was read for.
            shown: item ids, or indices of the matrix's candidates, in shown order.
            matrix: as it was read: all candidates.
            scores: served scores by name, each one number per *candidate* of the matrix, as a
                ranker has them; those of the shown items are kept.
            policy, slice, model: what decided the order.
            propensity: probability of the shown order, where known.
            positions: slot of each *shown* item where these are not ``0 .. n-1``; -1 for unknown.

        Returns:
            False when the request is not in the sample (then nothing is done), or when the
            snapshot was dropped and counted.

        Raises:
            CaptureError: an argument does not fit the matrix.
        """
        if not self._capture.takes(request.request_id):
            return False
        rows = _rows(shown, matrix.items)
        if positions is not None and len(positions) != len(rows):
            raise CaptureError(f"positions: {len(positions)} of them: must be {len(rows)}")
        return self._capture.send(
            record.of(
                request,
                matrix.take(rows),
                positions=positions,
                scores=_of_shown(scores or {}, rows, len(matrix.items)),
                policy=policy,
                slice=slice,
                model=model,
                propensity=propensity,
            )
        )


class Tenuto(_Serving):
    """Reads features, captures snapshots and sends events; see :func:`connect`.

    Thread-safe, and a forked child makes connections of its own.

    Attributes:
        events: the producer behind ``send`` and ``send_many``.
    """

    def __init__(self, platform: Platform, settings: Settings) -> None:
        super().__init__(platform, settings)
        redis = settings.redis
        self._client = FeatureClient(
            redis.url, self._reader, cluster=redis.cluster, **redis.options()
        )
        self.events = EventProducer(platform.events, self._connection, **_producing(settings))

    def read(
        self,
        request: Request,
        candidates: Sequence[str],
        context: Mapping[str, Any] | None = None,
        *,
        timeout_ms: float = 50.0,
        as_of_ms: int | None = None,
    ) -> Matrix:
        """Features of the candidates as of the request's time, in one round trip.

        Args:
            request: who asks what, and when.
            candidates: item ids, ``n``.
            context: declared context by name: one value, or ``n`` where it is per item.
            timeout_ms: for connecting, asking and the whole answer.
            as_of_ms: the moment of the windows; the request's time by default.

        Returns:
            ``(n, columns) float32`` with each value's state.

        Raises:
            DeadlineExceededError: not the whole answer within ``timeout_ms``.
            StoreUnavailableError: Redis cannot be reached, or refused.
            ContextError: context that was not declared so.
            AsOfTooOldError: the moment lies behind what the store still holds.
            PartitionCountError: ``kafka.partitions`` is not what the workers have.
            BucketCountError: ``redis.buckets`` is not what the workers have.
        """
        started = time.perf_counter()
        try:
            matrix = self._client.read(
                request, candidates, context, timeout_ms=timeout_ms, as_of_ms=as_of_ms
            )
        except Exception as error:
            self._metrics.failed(error)
            raise
        self._metrics.read(matrix, time.perf_counter() - started)
        return matrix

    def send(self, event: str | Event, fields: Mapping[str, Any]) -> Sending:
        """Send one event; as ``EventProducer.send``, which says what it raises."""
        return self.events.send(event, fields)

    def send_many(self, event: str | Event, records: Iterable[Mapping[str, Any]]) -> list[Sending]:
        """Send events in order; as ``EventProducer.send_many``."""
        return self.events.send_many(event, records)

    def flush(self, timeout_s: float = 30.0) -> None:
        """Wait until every snapshot and event is acknowledged, or dropped and counted.

        Raises:
            TimeoutError: something still waits after ``timeout_s``.
            SendError: an event has failed since the last ``flush``.
        """
        give_up_s = time.monotonic() + timeout_s
        self._capture.flush(timeout_s)
        self.events.flush(max(0.0, give_up_s - time.monotonic()))

    def close(self, timeout_s: float = 10.0) -> None:
        """Send what waits, for ``timeout_s`` at most, and disconnect.

        Raises:
            TimeoutError, SendError: events were left behind; snapshots are counted instead.
        """
        self._client.close()
        give_up_s = time.monotonic() + timeout_s
        self._capture.close(timeout_s)
        self.events.close(max(0.0, give_up_s - time.monotonic()))

    def __enter__(self) -> Tenuto:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncTenuto(_Serving):
    """As :class:`Tenuto`, awaited; ``capture`` never waits and is an ordinary call.

    Attributes:
        events: the producer behind ``send`` and ``send_many``.
    """

    def __init__(self, platform: Platform, settings: Settings) -> None:
        super().__init__(platform, settings)
        redis = settings.redis
        self._client = AsyncFeatureClient(
            redis.url, self._reader, cluster=redis.cluster, **redis.options()
        )
        self.events = AsyncEventProducer(platform.events, self._connection, **_producing(settings))

    async def read(
        self,
        request: Request,
        candidates: Sequence[str],
        context: Mapping[str, Any] | None = None,
        *,
        timeout_ms: float = 50.0,
        as_of_ms: int | None = None,
    ) -> Matrix:
        """As :meth:`Tenuto.read`."""
        started = time.perf_counter()
        try:
            matrix = await self._client.read(
                request, candidates, context, timeout_ms=timeout_ms, as_of_ms=as_of_ms
            )
        except Exception as error:
            self._metrics.failed(error)
            raise
        self._metrics.read(matrix, time.perf_counter() - started)
        return matrix

    async def send(self, event: str | Event, fields: Mapping[str, Any]) -> Sent:
        """Send one event; returns once it is acknowledged."""
        return await self.events.send(event, fields)

    async def send_many(
        self, event: str | Event, records: Iterable[Mapping[str, Any]]
    ) -> list[Sent]:
        """Send events in order; returns once all are acknowledged."""
        return await self.events.send_many(event, records)

    async def flush(self, timeout_s: float = 30.0) -> None:
        """As :meth:`Tenuto.flush`."""
        give_up_s = time.monotonic() + timeout_s
        await asyncio.to_thread(self._capture.flush, timeout_s)
        await self.events.flush(max(0.0, give_up_s - time.monotonic()))

    async def close(self, timeout_s: float = 10.0) -> None:
        """As :meth:`Tenuto.close`."""
        await self._client.aclose()
        give_up_s = time.monotonic() + timeout_s
        await asyncio.to_thread(self._capture.close, timeout_s)
        await self.events.close(max(0.0, give_up_s - time.monotonic()))

    async def __aenter__(self) -> AsyncTenuto:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


def _found(
    app: str | Platform,
    settings: Settings | None,
    config: str | Path | None,
    env: Mapping[str, str] | None,
) -> tuple[Platform, Settings]:
    if settings is None:
        settings = load(None if config is None else Path(config), env).settings
    return (app if isinstance(app, Platform) else load_app(app or settings.app)), settings


def _producing(settings: Settings) -> dict[str, Any]:
    return {"namespace": settings.namespace, "max_record_bytes": settings.limits.event_bytes}


def _rows(shown: Sequence[str] | Sequence[int], items: Sequence[str]) -> list[int]:
    """Indices of the shown candidates, in shown order."""
    # NumPy's ints and strings included, as rankers sort with it.
    listed: list[Any] = shown.tolist() if isinstance(shown, np.ndarray) else list(shown)
    if listed and isinstance(listed[0], str):
        index: dict[str, int] = {}
        for at, item in enumerate(items):
            index.setdefault(item, at)
        rows = [index.get(item, -1) for item in listed]
        fault = "is not among the matrix's items"
    else:
        rows = [int(at) if 0 <= at < len(items) else -1 for at in listed]
        fault = f"must be an index of the matrix's {len(items)} items"
    if -1 in rows:
        at = rows.index(-1)
        raise CaptureError(f"shown[{at}]: {listed[at]!r} {fault}")
    return rows


def _of_shown(scores: Mapping[str, Any], rows: list[int], n: int) -> dict[str, Any]:
    """The shown items' part of scores that are over all candidates."""
    found = {}
    for name, values in scores.items():
        array = np.asarray(values, np.float32)
        if array.shape != (n,):
            raise CaptureError(
                f"scores[{name!r}]: shape {array.shape}: must be ({n},), one a candidate"
            )
        found[name] = array[rows]
    return found
