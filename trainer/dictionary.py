"""Which ids have an embedding of their own: those learnt often enough, in the order admitted."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

RARE = 0
"""Code of every id that was not admitted."""


class Dictionary:
    """Ids to rows of a table. Codes never change, and none is given twice.

    Ids that wait are counted in two generations, each of half of ``max_ids`` at most: when the
    younger is full it becomes the older, and what the older held is forgotten. So an id is admitted
    once it came ``admit_after`` times without that many others coming new in between, and memory
    is bounded whatever comes.

    Args:
        admit_after: learnt rows.
        max_ids: rows of the table; when they are taken, ids stay rare.

    Attributes:
        ids: admitted, in order; the first has code 1.
        refused: how often an id would have been admitted but for ``max_ids``.
    """

    def __init__(self, admit_after: int, max_ids: int) -> None:
        self.ids: list[str] = []
        self.refused = 0
        self._admit_after = admit_after
        self._max_ids = max_ids
        self._generation = max(1, max_ids // 2)
        self._codes: dict[str, int] = {}
        self._younger: dict[str, int] = {}
        self._older: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def pending(self) -> int:
        """How many ids are counted and not admitted."""
        return len(self._younger) + len(self._older)

    def codes(self, ids: Iterable[str]) -> list[int]:
        """Code of each id; ``RARE`` where it has none."""
        code = self._codes.get
        return [code(one, RARE) for one in ids]

    def learn(self, counts: Iterable[tuple[str, int]]) -> list[str]:
        """Count the rows just learnt, and admit.

        Args:
            counts: ids, each once, and their rows; their order decides that of the codes.

        Returns:
            The ids admitted, in the order of their codes.
        """
        admitted = []
        for one, rows in counts:
            if one in self._codes:
                continue
            seen = self._forget(one) + rows
            if seen < self._admit_after:
                self._keep(one, seen)
            elif len(self.ids) < self._max_ids:
                self._admit(one)
                admitted.append(one)
            else:
                self.refused += 1
        return admitted

    def state(self) -> dict[str, Any]:
        """What it counts beside ``ids``, as JSON."""
        return {
            "refused": self.refused,
            "younger": list(self._younger.items()),
            "older": list(self._older.items()),
        }

    def load(self, ids: Sequence[str], state: dict[str, Any] | None = None) -> None:
        """Go on from saved ids and state; without a state, nothing waits."""
        self.ids = []
        self._codes = {}
        for one in ids:
            self._admit(one)
        found = state or {"refused": 0, "younger": [], "older": []}
        self.refused = found["refused"]
        self._younger = dict(found["younger"])
        self._older = dict(found["older"])

    def _admit(self, one: str) -> None:
        self.ids.append(one)
        self._codes[one] = len(self.ids)

    def _forget(self, one: str) -> int:
        return self._younger.pop(one, 0) or self._older.pop(one, 0)

    def _keep(self, one: str, seen: int) -> None:
        if len(self._younger) >= self._generation:
            self._older, self._younger = self._younger, {}
        self._younger[one] = seen
