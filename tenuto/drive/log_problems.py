"""Bad rows of a log: what is said about one, and how many there were of which kind."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from tenuto.drive.mapping import InteractionLogError

OnError = Literal["raise", "skip"]
FIRST = 5
"""How many bad rows are kept in full."""


@dataclass(frozen=True)
class Problem:
    """One bad row.

    Attributes:
        row: its number in the file; the header of a CSV file is row 1, and a Parquet file, which
            has none, begins at row 1.
        column: as :class:`~tenuto.drive.mapping.LogColumn` prints itself; "" for the whole row.
        value: as the file has it.
        expected: what would be right.
        kind: what it is counted under, where that is not ``expected``.
    """

    row: int
    column: str
    value: str
    expected: str
    kind: str = ""

    @property
    def reason(self) -> str:
        """What it is counted as: the problem without its row and value."""
        kind = self.kind or f"expected {self.expected}"
        return f"{self.column}: {kind}" if self.column else kind

    def __str__(self) -> str:
        what = f"{self.column}: {self.value}" if self.column else self.value
        return f"row {self.row}: {what}: expected {self.expected}"


@dataclass
class Problems:
    """Bad rows met so far: the first few, and all of them by reason."""

    path: Path
    on_error: OnError
    by_reason: Counter[str] = field(default_factory=Counter)
    first: list[Problem] = field(default_factory=list)

    def add(self, problems: list[Problem]) -> None:
        """Count them, or raise the earliest.

        Raises:
            InteractionLogError: there is one and ``on_error`` is "raise".
        """
        problems = sorted(problems, key=lambda one: one.row)
        if problems and self.on_error == "raise":
            raise InteractionLogError(f"{self.path.name} {problems[0]}")
        self.by_reason.update(one.reason for one in problems)
        self.first.extend(problems[: max(0, FIRST - len(self.first))])
