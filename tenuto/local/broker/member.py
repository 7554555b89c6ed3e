"""A member of a group, and what it and the group say to each other.

Answers to JoinGroup and SyncGroup may come much later than the requests: a member that waits for
one holds the function to call.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tenuto.local.broker.errors import Code


@dataclass(frozen=True, slots=True)
class Join:
    """What a client asks to join with.

    Attributes:
        member_id: empty for a new member.
        instance_id: of a static member.
        protocols: name and metadata of each protocol that it can, its favourite first.
        must_know_id: a new member is first given an id, and asks again with it.
        skips_assignment: a leader that comes back can be told to leave the assignment as it is.
    """

    member_id: str
    instance_id: str | None
    client_id: str
    host: str
    protocol_type: str
    protocols: tuple[tuple[str, bytes], ...]
    session_ms: int
    rebalance_ms: int
    must_know_id: bool = True
    skips_assignment: bool = False


@dataclass(frozen=True, slots=True)
class Joined:
    """The answer to a JoinGroup; ``members`` (id, instance, metadata) is the leader's only."""

    code: Code
    member_id: str
    generation: int = -1
    protocol: str | None = None
    leader: str = ""
    members: tuple[tuple[str, str | None, bytes], ...] = ()
    skip_assignment: bool = False


@dataclass(frozen=True, slots=True)
class Synced:
    """The answer to a SyncGroup."""

    code: Code
    assignment: bytes = b""


OnJoined = Callable[[Joined], None]
OnSynced = Callable[[Synced], None]


@dataclass(slots=True)
class Member:
    """One member; ``on_joined`` and ``on_synced`` are there while it waits for an answer."""

    id: str
    instance_id: str | None
    client_id: str
    host: str
    protocols: dict[str, bytes]
    session_ms: int
    rebalance_ms: int
    deadline_ms: float
    assignment: bytes = b""
    on_joined: OnJoined | None = None
    on_synced: OnSynced | None = None

    @property
    def waits(self) -> bool:
        """Whether it waits for us, and so cannot be late itself."""
        return self.on_joined is not None or self.on_synced is not None

    def joined(self, answer: Joined) -> None:
        """Answer its JoinGroup, if it waits for that."""
        on_joined, self.on_joined = self.on_joined, None
        if on_joined is not None:
            on_joined(answer)

    def synced(self, answer: Synced) -> None:
        """Answer its SyncGroup, if it waits for that."""
        on_synced, self.on_synced = self.on_synced, None
        if on_synced is not None:
            on_synced(answer)
