"""Committed offsets of one group."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Commit:
    """A committed offset: the next record to read, and what the client wrote beside it."""

    offset: int
    leader_epoch: int
    metadata: str


class Commits:
    """The newest commit of each partition; they live as long as the group and the topic."""

    def __init__(self) -> None:
        self._commits: dict[tuple[str, int], Commit] = {}

    def put(self, topic: str, partition: int, commit: Commit) -> None:
        """Commit."""
        self._commits[topic, partition] = commit

    def get(self, topic: str, partition: int) -> Commit | None:
        """The newest commit of a partition."""
        return self._commits.get((topic, partition))

    def partitions(self) -> Iterable[tuple[str, int]]:
        """All partitions with a commit."""
        return sorted(self._commits)

    def forget(self, topic: str, partition: int | None = None) -> None:
        """Drop the commit of a partition, or those of a whole topic."""
        for key in [key for key in self._commits if key[0] == topic]:
            if partition is None or key[1] == partition:
                del self._commits[key]
