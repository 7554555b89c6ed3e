"""Names of the platform's topics on a broker: the declared ones, behind a namespace."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from tenuto.features.events import Event


@dataclass(frozen=True, slots=True)
class TopicNames:
    """Topic names of one namespace.

    Attributes:
        namespace: keeps several platforms apart on one broker; "" for none.
    """

    namespace: str = ""

    def of(self, name: str) -> str:
        """The name on the broker: ``"ns.clicks"``."""
        return f"{self.namespace}.{name}" if self.namespace else name

    @property
    def snapshots(self) -> str:
        return self.of("snapshots")

    @property
    def dead_letters(self) -> str:
        return self.of("dead-letters")

    @property
    def checkpoints(self) -> str:
        return self.of("checkpoints")

    def events(self, events: Iterable[Event]) -> dict[str, str]:
        """Topic by event name."""
        return {event.name: self.of(event.name) for event in events}
