"""The announcements of one model in its store: numbered files, and ``latest.json``.

Several processes may append: a number is claimed by creating its file, which only one can do.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from tenuto.trainer.checkpoints.errors import (
    CheckpointError,
    PublishError,
    SizeMismatchError,
)
from tenuto.trainer.checkpoints.manifest import (
    MAX_MANIFEST_BYTES,
    Announcement,
    check_name,
    decode_announcement,
    encode,
)
from tenuto.trainer.checkpoints.store import Store

logger = logging.getLogger(__name__)

_MAX_CLAIMS = 100


class AnnouncementLog:
    """``<model>/feed/<sequence>.json`` and ``<model>/latest.json``."""

    def __init__(self, store: Store, model: str) -> None:
        check_name(model, "model")
        self._store = store
        self._folder = f"{model}/feed"
        self._latest = f"{model}/latest.json"
        self._read: dict[int, Announcement] = {}
        self._found: tuple[bytes, Announcement] | None = None

    def latest(self) -> Announcement | None:
        """What holds; None before the first.

        Raises:
            FormatError: it cannot be read.
            OSError: the store does not answer.
        """
        try:
            size = self._store.size(self._latest)
            if size is not None and size > MAX_MANIFEST_BYTES:
                raise SizeMismatchError(f"{self._store.url}/{self._latest}: {size} bytes: too many")
            data = self._store.read(self._latest)
        except FileNotFoundError:
            return None
        # Followers ask many times for each change.
        if self._found is None or self._found[0] != data:
            place = f"{self._store.url}/{self._latest}"
            self._found = data, decode_announcement(data, place)
        return self._found[1]

    def sequences(self) -> list[int]:
        """Numbers of the announcements that are kept, ascending."""
        stems = [name.removesuffix(".json") for name in self._store.names(self._folder)]
        return sorted(int(stem) for stem in stems if stem.isascii() and stem.isdigit())

    def since(self, sequence: int) -> list[Announcement]:
        """The announcements that are kept with a higher number, oldest first.

        A damaged one is passed over: a later one holds, so what it said matters no more.

        Raises:
            OSError: the store does not answer.
        """
        kept = self.sequences()
        # They never change, so each is read once.
        self._read = {number: self._read[number] for number in kept if number in self._read}
        found = (self._announcement(number) for number in kept if number > sequence)
        return [one for one in found if one is not None]

    def append(self, make: Callable[[int], Announcement]) -> Announcement:
        """Claim the next number for an announcement, and point ``latest`` to the newest.

        Args:
            make: the announcement with a number.

        Raises:
            PublishError: other processes claimed every number tried.
        """
        for _ in range(_MAX_CLAIMS):
            last = self._newest()
            announcement = make(last + 1)
            if self._store.create(self._path(last + 1), encode(announcement)):
                self.point()
                return announcement
        raise PublishError(f"{self._store.url}/{self._folder}: no number to be had: try again")

    def point(self) -> None:
        """Make ``latest`` the newest announcement, also where a crash came in between."""
        newest = -1
        # Another process may append meanwhile, and its latest must not be overwritten for good.
        while (last := self._newest()) > newest:
            newest = last
            if self._pointed() >= newest:
                return
            self._store.write(self._latest, self._store.read(self._path(newest)))

    def forget(self) -> None:
        """Read the announcements anew: the store is another one."""
        self._read = {}

    def drop(self, keep: int) -> None:
        """Forget all but the newest ones."""
        for sequence in self.sequences()[:-keep]:
            self._store.delete(self._path(sequence))

    def sweep(self) -> None:
        """Remove what writes that were killed left."""
        self._store.sweep(self._folder)
        self._store.sweep(self._latest.rpartition("/")[0])

    def _announcement(self, sequence: int) -> Announcement | None:
        if sequence not in self._read:
            path = self._path(sequence)
            try:
                data = self._store.read(path)
                self._read[sequence] = decode_announcement(data, f"{self._store.url}/{path}")
            except FileNotFoundError:
                return None
            except CheckpointError as error:
                logger.warning("announcement passed over: %s", error)
                return None
        return self._read[sequence]

    def _newest(self) -> int:
        return max([self._pointed(), *self.sequences()])

    def _pointed(self) -> int:
        try:
            latest = self.latest()
        except CheckpointError:
            # Damaged: it is written anew from the numbered ones.
            return 0
        return latest.sequence if latest else 0

    def _path(self, sequence: int) -> str:
        return f"{self._folder}/{sequence:012d}.json"
