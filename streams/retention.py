"""How long the event topics are kept, against how far back a lost store must be rebuilt from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tenuto.features.durations import duration_text


@dataclass(frozen=True, slots=True)
class Retention:
    """What the broker keeps of a topic.

    Attributes:
        topic: its name.
        ms: for how long, -1 for ever; None where the broker does not say.
        partition_bytes: and at most, of each partition; -1 for no limit.
    """

    topic: str
    ms: int | None
    partition_bytes: int = -1

    @property
    def seconds(self) -> float:
        """For how long at most; infinite for ever, NaN where the broker does not say."""
        if self.ms is None:
            return float("nan")
        return float("inf") if self.ms < 0 else self.ms / 1000.0


def shortfalls(kept: Sequence[Retention], needed_ms: int) -> list[str]:
    """A line for each topic that may keep less than a rebuild must read.

    Args:
        kept: of the topics that feed the features.
        needed_ms: ``Layout.history_ms``.
    """
    lines = []
    needed = _about(needed_ms)
    for topic in kept:
        if topic.ms is not None and 0 <= topic.ms < needed_ms:
            lines.append(
                f"{topic.topic}: retention.ms keeps {_about(topic.ms)}, and a lost Redis is "
                f"rebuilt from the last {needed}: until the longest window has passed its values "
                f"would say rebuilding; raise it to {needed_ms} (kafka.retention)"
            )
        if topic.partition_bytes >= 0:
            lines.append(
                f"{topic.topic}: retention.bytes keeps {topic.partition_bytes} bytes of a "
                f"partition, whatever their age, and a lost Redis is rebuilt from the last "
                f"{needed}: set it to -1"
            )
    return lines


def _about(ms: int) -> str:
    """A duration for people: exact where that is short."""
    return f"{ms / 86_400_000:.2f} days" if ms > 86_400_000 else duration_text(ms)
