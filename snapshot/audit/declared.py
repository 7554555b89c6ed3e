"""What an application declares and its settings decide, as the audit needs it."""

from __future__ import annotations

from dataclasses import dataclass

from tenuto.features.events import Event
from tenuto.features.rules import TimeRules
from tenuto.features.schema import FeatureSet
from tenuto.snapshot.labels import SampleStream


@dataclass(frozen=True)
class Declared:
    """Declarations and limits; the same as those of the processes that wrote the log.

    Attributes:
        scores: names of the served scores that samples show.
        event_bytes, snapshot_bytes: largest records that count.
    """

    events: tuple[Event, ...]
    features: FeatureSet
    samples: tuple[SampleStream, ...]
    scores: tuple[str, ...]
    rules: TimeRules
    event_bytes: int
    snapshot_bytes: int

    @property
    def proofs(self) -> set[str]:
        """Names of the events that imply an impression."""
        return {event.name for event in self.events if event.implies_impression}

    def read_by(self, stream: SampleStream) -> set[str]:
        """Names of the events that a stream's joiner reads."""
        return self.proofs | {label.event.name for label in stream.labels}

    def reach_ms(self, stream: SampleStream, event: str) -> int:
        """How long after its request an event can still matter for a stream."""
        windows = [label.window_ms for label in stream.labels if label.event.name == event]
        return stream.impression_window_ms + max(windows, default=0)
