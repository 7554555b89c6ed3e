"""Frames out of a stream of bytes: four bytes of length, then so many bytes.

Made for ``asyncio.BufferedProtocol``: the socket reads straight into ``space()``.
"""

from __future__ import annotations

import struct

_LEAST = 64 * 1024
# A buffer that has grown for large frames stays, up to this: the next are likely as large.
_KEPT = 4 * 1024 * 1024
_LENGTH = struct.Struct(">i")
_LENGTH_BYTES = _LENGTH.size


class FrameError(Exception):
    """What was received cannot be a frame."""


class Frames:
    """Collects bytes and hands out whole frames in order.

    Args:
        max_bytes: the largest frame that is taken.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._buffer = bytearray(_LEAST)
        self._begin = 0
        self._end = 0
        # Room for this much, from _begin on, holds the frame that is being received.
        self._wanted = _LENGTH_BYTES

    def space(self) -> memoryview:
        """Where the next bytes go; never empty."""
        if self._begin == self._end:
            self._begin = self._end = 0
            if len(self._buffer) > _KEPT >= self._wanted:
                self._buffer = bytearray(_LEAST)
        if self._end == len(self._buffer) or self._begin + self._wanted > len(self._buffer):
            rest = self._buffer[self._begin : self._end]
            if max(self._wanted, len(rest) + 1) > len(self._buffer):
                self._buffer = bytearray(max(self._wanted, 2 * len(rest)))
            self._buffer[: len(rest)] = rest
            self._begin, self._end = 0, len(rest)
        return memoryview(self._buffer)[self._end :]

    def received(self, n_bytes: int) -> None:
        """So many bytes have been written to ``space()``."""
        self._end += n_bytes

    @property
    def is_full(self) -> bool:
        """Whether a whole frame waits to be taken."""
        held = self._end - self._begin
        return held >= _LENGTH_BYTES and held >= _LENGTH_BYTES + self._size()

    def next(self) -> bytes | None:
        """The next whole frame, without its length; None until there is one.

        Raises:
            FrameError: its length is negative or too large.
        """
        payload = self._begin + _LENGTH_BYTES
        if payload > self._end:
            self._wanted = _LENGTH_BYTES
            return None
        size = self._size()
        if not 0 <= size <= self._max_bytes:
            raise FrameError(f"a frame of {size} bytes: at most {self._max_bytes} are taken")
        if payload + size > self._end:
            self._wanted = _LENGTH_BYTES + size
            return None
        self._begin = payload + size
        with memoryview(self._buffer) as view:
            return bytes(view[payload : self._begin])

    def _size(self) -> int:
        return int(_LENGTH.unpack_from(self._buffer, self._begin)[0])
