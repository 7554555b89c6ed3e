"""Interrupts of a run, taken between its steps.

Python raises ``KeyboardInterrupt`` in the middle of whatever runs. In ``Condition.__enter__`` the
lock that was just taken stays taken, and whoever needs it, a client's thread say, waits for good;
in a callback of the collector it is printed and forgotten.
"""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any


class Interrupts:
    """Notes SIGINT inside a ``with`` statement; ``check`` raises it.

    A second one is raised at once. Where something else than Python's own handler is in place, or
    in another than the main thread, nothing is done.
    """

    def __init__(self) -> None:
        self._noted = False
        self._before: Any = None

    def check(self) -> None:
        """Raises:
        KeyboardInterrupt: there was an interrupt.
        """
        if self._noted:
            raise KeyboardInterrupt

    def __enter__(self) -> None:
        is_main = threading.current_thread() is threading.main_thread()
        if is_main and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            self._before = signal.signal(signal.SIGINT, self._note)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)
            self._before = None
        if kind is None:
            self.check()

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._noted:
            signal.default_int_handler(number, frame)
        self._noted = True
