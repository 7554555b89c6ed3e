"""A worker that dies between two chunks of a batch, wherever it should."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import partial
from typing import Any

import redis

from tenuto.features.store import Store


class Dying:
    """While it is entered, scripts of these stores fail after so many calls.

    Args:
        stores: of one worker.
        calls: of all of them together that are still made.
    """

    def __init__(self, stores: Sequence[Store], calls: int) -> None:
        self._left = calls
        self._lock = threading.Lock()
        self._runs = [(store, store._apply.run) for store in stores]

    def __enter__(self) -> None:
        for store, run in self._runs:
            store._apply.run = partial(self._run, run)  # type: ignore[method-assign]

    def __exit__(self, *_: object) -> None:
        for store, run in self._runs:
            store._apply.run = run  # type: ignore[method-assign]

    def _run(self, run: Any, calls: list[Any], *rest: Any) -> None:
        with self._lock:
            made = calls[: self._left]
            self._left -= len(made)
        del calls[: len(made)]
        run(made, *rest)
        if calls:
            raise redis.ConnectionError("killed here")
