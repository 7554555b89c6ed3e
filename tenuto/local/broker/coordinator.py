"""All groups of the broker, their committed offsets, and the one timer that ends their waits."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from tenuto.local.broker.committed import Commits
from tenuto.local.broker.errors import Code, RefusedError
from tenuto.local.broker.group import Group, State

MIN_SESSION_MS = 100
"""Kafka's own least is 6 s (group.min.session.timeout.ms); tests want less."""

MAX_SESSION_MS = 1_800_000


class Coordinator:
    """Groups by id. Whoever changes one calls ``wake`` afterwards."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._groups: dict[str, Group] = {}
        self._commits: dict[str, Commits] = {}
        self._timer: asyncio.TimerHandle | None = None

    def __iter__(self) -> Iterator[Group]:
        return iter(self._groups.values())

    def now_ms(self) -> float:
        """The groups' clock."""
        return self._loop.time() * 1_000

    def get(self, group_id: str) -> Group | None:
        """A group, if there is one of that id."""
        return self._groups.get(group_id)

    def get_or_create(self, group_id: str) -> Group:
        """A group; made when it is first named."""
        group = self._groups.get(group_id)
        if group is None:
            group = self._groups[group_id] = Group(group_id)
        return group

    def commits(self, group_id: str) -> Commits:
        """The committed offsets of a group; empty where nothing was committed."""
        return self._commits.setdefault(group_id, Commits())

    def delete(self, group_id: str) -> None:
        """Forget an empty group and its commits.

        Raises:
            RefusedError: it has members, or is not there.
        """
        group = self._groups.get(group_id)
        if group is None:
            raise RefusedError(Code.GROUP_ID_NOT_FOUND, "The group does not exist")
        if group.state is not State.EMPTY:
            raise RefusedError(Code.NON_EMPTY_GROUP, "The group has members")
        del self._groups[group_id]
        self._commits.pop(group_id, None)

    def forget_topic(self, topic: str) -> None:
        """Drop the commits of a topic that was deleted: one of the same name is another."""
        for commits in self._commits.values():
            commits.forget(topic)

    def wake(self, group: Group) -> None:
        """See to it that the group's next deadline is met."""
        deadline_ms = group.next_deadline_ms()
        if deadline_ms is None:
            return
        if self._timer is not None:
            if self._timer.when() * 1_000 <= deadline_ms:
                return
            self._timer.cancel()
        self._timer = self._loop.call_at(deadline_ms / 1_000, self._tick)

    def _tick(self) -> None:
        self._timer = None
        now_ms = self.now_ms()
        for group in self._groups.values():
            group.tick(now_ms)
        for group in self._groups.values():
            self.wake(group)
