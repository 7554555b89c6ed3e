"""Versions that retention must leave alone: one small file for each pin."""

from __future__ import annotations

from tenuto.trainer.checkpoints.manifest import check_name, check_version
from tenuto.trainer.checkpoints.store import Store


class Pins:
    """``<model>/pins/<version>``."""

    def __init__(self, store: Store, model: str) -> None:
        self._store = store
        self._folder = f"{check_name(model, 'model')}/pins"

    def versions(self) -> set[str]:
        """Those that are pinned."""
        return set(self._store.names(self._folder))

    def add(self, version: str) -> None:
        """Keep a version until :meth:`remove`.

        Raises:
            UnsafePathError: no name of a version.
        """
        self._store.write(f"{self._folder}/{check_version(version, 'version')}", b"")

    def remove(self, version: str) -> None:
        """Let retention have it again."""
        self._store.delete(f"{self._folder}/{check_version(version, 'version')}")

    def sweep(self) -> None:
        """Remove what writes that were killed left."""
        self._store.sweep(self._folder)
