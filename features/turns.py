"""Turns: a few threads at once, for work at which more of them are only in each other's way.

NumPy and PyTorch hand on the interpreter in the middle of dozens of calls that take microseconds
each. Where many threads decode or score, each of these is a change of threads and of cores: sixteen
got half as much done as one. Those who wait for their turn do not want the interpreter meanwhile.
"""

from __future__ import annotations

import os
import threading
from collections import deque


class Turns:
    """Held by a ``with`` statement; first come, first served.

    A child that is forked in the middle of somebody's turn has turns of its own.

    Args:
        at_once: how many threads of a process may have one.
    """

    def __init__(self, at_once: int = 1) -> None:
        self._at_once = at_once
        self._queues: dict[int, _Queue] = {}

    def __enter__(self) -> None:
        pid = os.getpid()
        queue = self._queues.get(pid)
        if queue is None:
            # Atomic: of two threads' new ones, one stays.
            queue = self._queues.setdefault(pid, _Queue(self._at_once))
        queue.enter()

    def __exit__(self, *_: object) -> None:
        self._queues[os.getpid()].leave()


class _Queue:
    """Who leaves hands over to whoever has waited longest: a plain lock may starve them."""

    def __init__(self, free: int) -> None:
        self._free = free
        self._mutex = threading.Lock()
        self._waiting: deque[threading.Lock] = deque()

    def enter(self) -> None:
        with self._mutex:
            if self._free:
                self._free -= 1
                return
            turn = threading.Lock()
            turn.acquire()
            self._waiting.append(turn)
        try:
            turn.acquire()
        except BaseException:
            # Interrupted: a turn that was handed over meanwhile is another's.
            with self._mutex:
                is_mine = turn not in self._waiting
                if not is_mine:
                    self._waiting.remove(turn)
            if is_mine:
                self.leave()
            raise

    def leave(self) -> None:
        with self._mutex:
            if self._waiting:
                self._waiting.popleft().release()
            else:
                self._free += 1
