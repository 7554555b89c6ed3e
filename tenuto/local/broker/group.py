"""One consumer group: the classic protocol's state machine, as Apache Kafka runs it.

Answers to JoinGroup and SyncGroup may come much later than the requests, so both take a function
to call. Time is an argument, in milliseconds of any clock that never goes back.
"""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from tenuto.local.broker.errors import Code
from tenuto.local.broker.member import Join, Joined, Member, OnJoined, OnSynced, Synced


class State(StrEnum):
    """States by the names that DescribeGroups tells."""

    EMPTY = "Empty"
    PREPARING_REBALANCE = "PreparingRebalance"
    COMPLETING_REBALANCE = "CompletingRebalance"
    STABLE = "Stable"


@dataclass
class Group:
    """A group's members and generation.

    Attributes:
        protocol_type: of its members; empty before there was one.
        protocol: that this generation uses.
        leader: member id.
    """

    id: str
    state: State = State.EMPTY
    generation: int = 0
    protocol_type: str = ""
    protocol: str | None = None
    leader: str | None = None
    members: dict[str, Member] = field(default_factory=dict)
    _static: dict[str, str] = field(default_factory=dict)
    # Ids that were given out and have not come back yet, with the time when they are given up.
    _pending: dict[str, float] = field(default_factory=dict)
    # When a rebalance that waits for members, or for their SyncGroups, goes on without them.
    _rebalance_deadline_ms: float | None = None

    # --- requests

    def join(self, join: Join, now_ms: float, reply: OnJoined) -> None:
        """JoinGroup; ``reply`` is called when all others have joined, too."""
        if not self._accepts(join):
            reply(Joined(Code.INCONSISTENT_GROUP_PROTOCOL, join.member_id))
        elif join.member_id == "":
            self._join_new(join, now_ms, reply)
        else:
            self._join_known(join, now_ms, reply)

    def sync(
        self,
        member_id: str,
        instance_id: str | None,
        generation: int,
        assignments: Mapping[str, bytes],
        now_ms: float,
        reply: OnSynced,
    ) -> None:
        """SyncGroup; ``reply`` is called when the leader has sent its assignments."""
        code = self._fault(member_id, instance_id, generation)
        if code is Code.NONE and self.state is State.PREPARING_REBALANCE:
            code = Code.REBALANCE_IN_PROGRESS
        if code is not Code.NONE:
            reply(Synced(code))
            return
        member = self.members[member_id]
        member.deadline_ms = now_ms + member.session_ms
        if self.state is State.STABLE:
            reply(Synced(Code.NONE, member.assignment))
            return
        member.on_synced = reply
        if member_id == self.leader:
            self.state = State.STABLE
            self._rebalance_deadline_ms = None
            for each in self.members.values():
                each.assignment = assignments.get(each.id, b"")
                if each.on_synced is None:
                    # Its SyncGroup is still to come; its session says until when.
                    continue
                each.deadline_ms = now_ms + each.session_ms
                each.synced(Synced(Code.NONE, each.assignment))

    def heartbeat(
        self, member_id: str, instance_id: str | None, generation: int, now_ms: float
    ) -> Code:
        """Heartbeat."""
        code = self._fault(member_id, instance_id, generation)
        if code is Code.NONE:
            member = self.members[member_id]
            member.deadline_ms = now_ms + member.session_ms
            if self.state is State.PREPARING_REBALANCE:
                code = Code.REBALANCE_IN_PROGRESS
        return code

    def leave(self, member_id: str, instance_id: str | None, now_ms: float) -> Code:
        """LeaveGroup of one member; a static one may be named by its instance alone."""
        if instance_id is not None:
            known = self._static.get(instance_id)
            if known is None:
                return Code.UNKNOWN_MEMBER_ID
            if member_id not in ("", known):
                return Code.FENCED_INSTANCE_ID
            member_id = known
        if self._pending.pop(member_id, None) is not None:
            self._complete_join_if_all_are_there(now_ms)
            return Code.NONE
        if member_id not in self.members:
            return Code.UNKNOWN_MEMBER_ID
        self._remove(member_id, now_ms)
        return Code.NONE

    def may_commit(
        self, member_id: str, instance_id: str | None, generation: int, now_ms: float
    ) -> Code:
        """Whether offsets may be committed so; counts as a heartbeat."""
        if generation < 0 and member_id == "" and instance_id is None:
            # Somebody without membership: an admin client, or a consumer that assigns itself.
            return Code.UNKNOWN_MEMBER_ID if self.members else Code.NONE
        code = self._fault(member_id, instance_id, generation)
        if code is Code.NONE:
            if self.state is State.COMPLETING_REBALANCE:
                return Code.REBALANCE_IN_PROGRESS
            member = self.members[member_id]
            member.deadline_ms = now_ms + member.session_ms
        return code

    # --- time

    def next_deadline_ms(self) -> float | None:
        """When ``tick`` has something to do, unless something happens before."""
        deadlines = [member.deadline_ms for member in self.members.values() if not member.waits]
        deadlines += self._pending.values()
        if self._rebalance_deadline_ms is not None:
            deadlines.append(self._rebalance_deadline_ms)
        return min(deadlines, default=None)

    def tick(self, now_ms: float) -> None:
        """Evict whose session has run out, and end rebalances that have waited long enough."""
        for member_id in [id for id, deadline in self._pending.items() if deadline <= now_ms]:
            del self._pending[member_id]
            self._complete_join_if_all_are_there(now_ms)
        for member in list(self.members.values()):
            if not member.waits and member.deadline_ms <= now_ms and member.id in self.members:
                self._remove(member.id, now_ms)
        if self._rebalance_deadline_ms is not None and self._rebalance_deadline_ms <= now_ms:
            if self.state is State.PREPARING_REBALANCE:
                self._complete_join(now_ms)
            else:
                self._evict_who_has_not_synced(now_ms)

    # --- joining

    def _accepts(self, join: Join) -> bool:
        if not (join.protocol_type and join.protocols):
            return False
        others = [member for member in self.members.values() if member.id != join.member_id]
        if not others:
            return True
        common = set.intersection(*(set(member.protocols) for member in others))
        return join.protocol_type == self.protocol_type and any(
            name in common for name, _ in join.protocols
        )

    def _join_new(self, join: Join, now_ms: float, reply: OnJoined) -> None:
        member_id = f"{join.instance_id or join.client_id}-{uuid.uuid4()}"
        if join.instance_id is not None and join.instance_id in self._static:
            self._replace(self._static[join.instance_id], member_id, join, now_ms, reply)
        elif join.instance_id is None and join.must_know_id:
            self._pending[member_id] = now_ms + join.session_ms
            reply(Joined(Code.MEMBER_ID_REQUIRED, member_id))
        else:
            self._add(member_id, join, now_ms, reply)

    def _join_known(self, join: Join, now_ms: float, reply: OnJoined) -> None:
        if join.instance_id is None and self._pending.pop(join.member_id, None) is not None:
            self._add(join.member_id, join, now_ms, reply)
            return
        code = self._identity_fault(join.member_id, join.instance_id)
        if code is not Code.NONE:
            reply(Joined(code, join.member_id))
            return
        member = self.members[join.member_id]
        same = tuple(member.protocols.items()) == join.protocols
        # A lost answer is given again; whatever else a member comes back for is a new generation.
        again = (self.state is State.COMPLETING_REBALANCE and same) or (
            self.state is State.STABLE and same and join.member_id != self.leader
        )
        self._update(member, join, now_ms)
        if again:
            reply(self._joined(member))
            return
        member.on_joined = reply
        self._rebalance(now_ms)

    def _add(self, member_id: str, join: Join, now_ms: float, reply: OnJoined) -> None:
        self.members[member_id] = Member(
            member_id,
            join.instance_id,
            join.client_id,
            join.host,
            dict(join.protocols),
            join.session_ms,
            join.rebalance_ms,
            now_ms + join.session_ms,
            on_joined=reply,
        )
        if join.instance_id is not None:
            self._static[join.instance_id] = member_id
        self.protocol_type = join.protocol_type
        self._rebalance(now_ms)

    def _replace(
        self, old_id: str, new_id: str, join: Join, now_ms: float, reply: OnJoined
    ) -> None:
        """A static member has come back: it takes its own place, and whoever held it is fenced."""
        member = self.members.pop(old_id)
        member.joined(Joined(Code.FENCED_INSTANCE_ID, old_id))
        member.synced(Synced(Code.FENCED_INSTANCE_ID))
        member.id = new_id
        self.members[new_id] = member
        self._static[join.instance_id or ""] = new_id
        was_leader = self.leader == old_id
        if was_leader:
            self.leader = new_id
        self._update(member, join, now_ms)
        if self.state is not State.STABLE or self.protocol != self._chosen_protocol():
            member.on_joined = reply
            self._rebalance(now_ms)
        elif was_leader and not join.skips_assignment:
            # An older client that learns that it leads would assign anew, alone.
            reply(Joined(Code.NONE, new_id, self.generation, self.protocol, old_id))
        else:
            reply(self._joined(member, skip_assignment=was_leader))

    @staticmethod
    def _update(member: Member, join: Join, now_ms: float) -> None:
        member.protocols = dict(join.protocols)
        member.session_ms = join.session_ms
        member.rebalance_ms = join.rebalance_ms
        member.deadline_ms = now_ms + join.session_ms

    # --- rebalancing

    def _rebalance(self, now_ms: float) -> None:
        """Begin a rebalance unless one has begun, and end it if everybody is there."""
        if self.state is not State.PREPARING_REBALANCE:
            if self.state is State.COMPLETING_REBALANCE:
                for member in self.members.values():
                    member.assignment = b""
                    member.deadline_ms = now_ms + member.session_ms
                    member.synced(Synced(Code.REBALANCE_IN_PROGRESS))
            self.state = State.PREPARING_REBALANCE
            self._rebalance_deadline_ms = now_ms + self._rebalance_ms()
        self._complete_join_if_all_are_there(now_ms)

    def _complete_join_if_all_are_there(self, now_ms: float) -> None:
        if (
            self.state is State.PREPARING_REBALANCE
            # Who was only told an id is waited for as long as there is somebody to wait.
            and not (self._pending and self.members)
            and all(member.on_joined is not None for member in self.members.values())
        ):
            self._complete_join(now_ms)

    def _complete_join(self, now_ms: float) -> None:
        """Begin a generation with whoever has joined, and static members, who may come late."""
        for member in list(self.members.values()):
            if member.on_joined is None and member.instance_id is None:
                del self.members[member.id]
        there = [member for member in self.members.values() if member.on_joined is not None]
        if self.members and not there:
            self._rebalance_deadline_ms = now_ms + self._rebalance_ms()
            return
        self.generation += 1
        self._rebalance_deadline_ms = None
        if not self.members:
            self.state, self.protocol, self.leader = State.EMPTY, None, None
            return
        self.state = State.COMPLETING_REBALANCE
        self._rebalance_deadline_ms = now_ms + self._rebalance_ms()
        self.protocol = self._chosen_protocol()
        if self.leader not in {member.id for member in there}:
            self.leader = there[0].id
        for member in self.members.values():
            member.deadline_ms = now_ms + member.session_ms
            member.joined(self._joined(member))

    def _evict_who_has_not_synced(self, now_ms: float) -> None:
        self._rebalance_deadline_ms = None
        late = [member.id for member in self.members.values() if member.on_synced is None]
        for member_id in late:
            self._remove(member_id, now_ms)

    def _remove(self, member_id: str, now_ms: float) -> None:
        member = self.members.pop(member_id)
        if member.instance_id is not None:
            self._static.pop(member.instance_id, None)
        member.joined(Joined(Code.UNKNOWN_MEMBER_ID, member_id))
        member.synced(Synced(Code.UNKNOWN_MEMBER_ID))
        if self.leader == member_id:
            self.leader = None
        self._rebalance(now_ms)

    # --- what is known

    def _joined(self, member: Member, *, skip_assignment: bool = False) -> Joined:
        everybody: Iterable[Member] = self.members.values() if member.id == self.leader else ()
        protocol = self.protocol or ""
        return Joined(
            Code.NONE,
            member.id,
            self.generation,
            protocol,
            self.leader or "",
            tuple((each.id, each.instance_id, each.protocols[protocol]) for each in everybody),
            skip_assignment,
        )

    def _chosen_protocol(self) -> str:
        """The one that most members like best, of those that all can."""
        members = self.members.values()
        common = set.intersection(*(set(member.protocols) for member in members))
        votes = Counter(
            next(name for name in member.protocols if name in common) for member in members
        )
        return votes.most_common(1)[0][0]

    def _rebalance_ms(self) -> int:
        return max((member.rebalance_ms for member in self.members.values()), default=0)

    def _fault(self, member_id: str, instance_id: str | None, generation: int) -> Code:
        code = self._identity_fault(member_id, instance_id)
        if code is Code.NONE and generation != self.generation:
            return Code.ILLEGAL_GENERATION
        return code

    def _identity_fault(self, member_id: str, instance_id: str | None) -> Code:
        if instance_id is not None:
            known = self._static.get(instance_id)
            if known is not None and known != member_id:
                return Code.FENCED_INSTANCE_ID
        return Code.NONE if member_id in self.members else Code.UNKNOWN_MEMBER_ID
