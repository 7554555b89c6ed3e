"""What a feed has heard, and what follows from it alone: pure, no store and no clock."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

import msgspec

from tenuto.trainer.checkpoints.errors import CheckpointError
from tenuto.trainer.checkpoints.manifest import Announcement, unnumbered

_KEPT = 10_000


class History:
    """Announcements of one model in the order of their sequence.

    Attributes:
        newest: what holds; None before the first.
        through_ms: the greatest front announced; 0 before the first.
    """

    def __init__(self, model: str) -> None:
        self.newest: Announcement | None = None
        self.through_ms = 0
        self._model = model
        self._heard: deque[Announcement] = deque(maxlen=_KEPT)
        self._rolled_back = False
        # One value, since other threads read it.
        self._fresh = ("", 0)

    def add(self, announcements: Iterable[Announcement]) -> None:
        """Take in what was heard."""
        for one in announcements:
            # Its manifest is read from the store, where it can be verified.
            self.newest = msgspec.structs.replace(one, manifest=None)
            self._heard.append(self.newest)
            self.through_ms = max(self.through_ms, one.front_ms)
            if one.reason != "unchanged":
                self._rolled_back = one.reason == "rollback"
            self._fresh = ("", 0) if self._rolled_back else (one.version, one.front_ms)

    def front_ms(self, version: str, learnt_to_ms: int) -> int:
        """Snapshot arrival up to which a version has learnt what there was to learn.

        Further than what it has learnt while it still holds, since nothing came then; not so when
        it holds again after a rollback.
        """
        fresh, front_ms = self._fresh
        return max(learnt_to_ms, front_ms) if version == fresh else learnt_to_ms

    def at(self, front_ms: int) -> Announcement | None:
        """The newest announcement with no later front than that; see ``CheckpointFeed``.

        Raises:
            CheckpointError: it was not among those heard.
        """
        if self.through_ms < front_ms:
            return None
        for announcement in reversed(self._heard):
            if announcement.front_ms <= front_ms:
                return announcement
        if self._heard and self._heard[0].sequence > 1:
            raise CheckpointError(
                f"model {self._model}: what was announced for {front_ms} is not kept any longer: "
                f"the first is of {self._heard[0].front_ms}"
            )
        return unnumbered(self._model, "", front_ms)
