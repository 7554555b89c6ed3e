"""Founding a store: its progress is made only once nothing of an earlier one is left.

Progress and entities are lost together when Redis is emptied. Where progress alone is gone (deleted
by hand, or by a reset that was killed on its way), counting anew upon what is left would double it.
"""

from __future__ import annotations

from typing import Any

import redis

# Keys looked at in a step; readers wait for one step at most.
_STEP = 1_000

_FOUND = """
-- KEYS: progress, lives. ARGV: cursor, pattern of the entities, how many to look at, lives as they
--       were at cursor 0, bytes of progress.
-- Returns {cursor, lives}: '' once there is progress. It counts its lives, so that a round which
-- another one overtook begins again.
local call = redis.call
local lives = call('GET', KEYS[2]) or '0'
if call('EXISTS', KEYS[1]) == 1 then return {'', lives} end
if ARGV[1] ~= '0' and ARGV[4] ~= lives then return {'0', lives} end
local found = call('SCAN', ARGV[1], 'MATCH', ARGV[2], 'COUNT', ARGV[3])
for _, key in ipairs(found[2]) do call('DEL', key) end
if found[1] ~= '0' then return {found[1], lives} end
call('INCR', KEYS[2])
call('SETRANGE', KEYS[1], ARGV[5] - 1, '\\0')
return {'', lives}
"""


class Founding:
    """Makes the progress key of one store.

    Args:
        client: a connected client with ``decode_responses=False``.
        prefix: of the store's keys.
        progress_key: one of them.
        size: bytes of progress, whatever it says.
    """

    def __init__(self, client: redis.Redis, prefix: bytes, progress_key: bytes, size: int) -> None:
        self._keys = [progress_key, prefix + b"lives"]
        # Every entity's key; no character of a prefix means anything in a pattern.
        self._pattern = prefix + b"[0-9]*"
        self._size = size
        self._found = client.register_script(_FOUND)

    def found(self) -> None:
        """Return once progress is there; deletes what is left of an earlier store before."""
        cursor, lives = b"0", b""
        while cursor:
            cursor, lives = self.step(cursor, lives)

    def step(self, cursor: bytes, lives: bytes, count: int = _STEP) -> tuple[bytes, bytes]:
        """Look at some keys; where to go on, or nowhere, since progress is there."""
        arguments: list[Any] = [cursor, self._pattern, count, lives, self._size]
        cursor, lives = self._found(keys=self._keys, args=arguments)
        return cursor, lives
