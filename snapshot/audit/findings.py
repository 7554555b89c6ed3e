"""What an audit counts and what it finds wrong, and how both are shown."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Literal

Kind = Literal["mismatching", "missing", "extra", "leaking"]
KINDS: tuple[Kind, ...] = ("mismatching", "missing", "extra", "leaking")
SHOWN = 10


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong.

    Attributes:
        check: what was compared: ``values``, ``labels``, ``rows``, ``files``, ``dead letters``, …
        where: the record: ``snapshots[2]@131 item 4``.
        text: which column or tile, what was expected and what was found.
    """

    kind: Kind
    check: str
    where: str
    text: str


@dataclass
class Findings:
    """Counts of every check, and the first findings of each kind.

    Attributes:
        checked: how many were compared, by check.
        found: how many are wrong, by check and kind.
        shown: the first :data:`SHOWN` of each check and kind.
        unverifiable: what the log no longer reaches, by check: neither right nor wrong.
        waiting: what is not due yet, by check.
        snapshots: how many were compared, whatever came of it; without any nothing is proven.
    """

    checked: Counter[str] = field(default_factory=Counter)
    found: Counter[tuple[str, Kind]] = field(default_factory=Counter)
    shown: list[Finding] = field(default_factory=list)
    unverifiable: Counter[str] = field(default_factory=Counter)
    waiting: Counter[str] = field(default_factory=Counter)
    snapshots: int = 0

    def equal(self, check: str, n: int = 1) -> None:
        """Count ``n`` comparisons that were equal."""
        self.checked[check] += n

    def add(self, kind: Kind, check: str, where: str, text: str) -> None:
        """Count one that is not."""
        if kind in ("mismatching", "leaking"):
            self.checked[check] += 1
        if self.found[check, kind] < SHOWN:
            self.shown.append(Finding(kind, check, where, text))
        self.found[check, kind] += 1

    @property
    def clean(self) -> bool:
        """Whether nothing is wrong."""
        return not any(self.found.values())

    def of(self, kind: Kind) -> int:
        """How many of a kind, over all checks."""
        return sum(n for (_, found_kind), n in self.found.items() if found_kind == kind)

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        checks = sorted(
            {*self.checked, *self.unverifiable, *self.waiting, *(check for check, _ in self.found)}
        )
        return {
            "clean": self.clean,
            "snapshots": self.snapshots,
            **{kind: self.of(kind) for kind in KINDS},
            "checks": {check: self._counts(check) for check in checks},
            "findings": [
                {"kind": f.kind, "check": f.check, "where": f.where, "text": f.text}
                for f in self.shown
            ],
        }

    def table(self) -> str:
        """A table of counts, and the first findings explained."""
        heads = ("checked", "equal", *KINDS, "waiting", "unverifiable")
        checks = self.to_json()["checks"]
        width = max([len(check) for check in checks] + [5])
        lines = [f"{'check':<{width}}" + "".join(f"{head:>14}" for head in heads)]
        for check, counts in checks.items():
            lines.append(f"{check:<{width}}" + "".join(f"{counts[head]:>14,}" for head in heads))
        for finding in self.shown:
            lines.append(f"{finding.kind}: {finding.check}: {finding.where}: {finding.text}")
        return "\n".join(lines)

    def _counts(self, check: str) -> dict[str, int]:
        wrong: dict[str, int] = {kind: self.found[check, kind] for kind in KINDS}
        checked = self.checked[check]
        equal = checked - wrong["mismatching"] - wrong["leaking"]
        return {
            "checked": checked,
            "equal": equal,
            **wrong,
            "waiting": self.waiting[check],
            "unverifiable": self.unverifiable[check],
        }
