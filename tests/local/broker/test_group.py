"""The group's state machine: time is an argument, and every answer is noted."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tenuto.local.broker.errors import Code
from tenuto.local.broker.group import Group, State
from tenuto.local.broker.member import Join, Joined, Synced

SESSION_MS = 10_000
REBALANCE_MS = 60_000


@dataclass
class Client:
    """Somebody who would be a member; keeps the answers in the order in which they came."""

    group: Group
    name: str
    instance: str | None = None
    protocols: tuple[tuple[str, bytes], ...] = (("range", b"meta"),)
    id: str = ""
    generation: int = -1
    answers: list[Any] = field(default_factory=list)

    def join(self, now_ms: float = 0, **options: Any) -> None:
        join = Join(
            self.id,
            self.instance,
            self.name,
            "127.0.0.1",
            "consumer",
            self.protocols,
            SESSION_MS,
            REBALANCE_MS,
            **options,
        )
        self.group.join(join, now_ms, self.joined)

    def joined(self, answer: Joined) -> None:
        self.answers.append(answer)
        self.id = answer.member_id
        if answer.code is Code.NONE:
            self.generation = answer.generation

    def enter(self, now_ms: float = 0) -> None:
        """Join as a newer client does: first for an id."""
        self.join(now_ms)
        if self.answers and self.last.code is Code.MEMBER_ID_REQUIRED:
            self.join(now_ms)

    def sync(self, now_ms: float = 0, **assignments: bytes) -> None:
        self.group.sync(
            self.id, self.instance, self.generation, assignments, now_ms, self.answers.append
        )

    def heartbeat(self, now_ms: float = 0) -> Code:
        return self.group.heartbeat(self.id, self.instance, self.generation, now_ms)

    @property
    def last(self) -> Any:
        return self.answers[-1]


@pytest.fixture
def group() -> Group:
    return Group("g")


@pytest.fixture
def pair(group: Group) -> tuple[Client, Client]:
    """Two members of a stable group; the first leads."""
    a, b = Client(group, "a"), Client(group, "b")
    a.enter()
    a.sync()
    b.enter()
    a.join()
    a.sync(**{a.id: b"1", b.id: b"2"})
    b.sync()
    assert group.state is State.STABLE
    return a, b


def test_a_new_member_is_given_an_id_first_and_joins_with_it(group: Group) -> None:
    a = Client(group, "a")
    a.join()
    assert a.last.code is Code.MEMBER_ID_REQUIRED
    assert a.id.startswith("a-")
    a.join()
    assert (a.last.code, a.last.generation, a.last.leader) == (Code.NONE, 1, a.id)
    assert a.last.members == ((a.id, None, b"meta"),)


def test_an_older_client_joins_at_once(group: Group) -> None:
    a = Client(group, "a")
    a.join(must_know_id=False)
    assert a.last.code is Code.NONE


def test_a_join_waits_for_the_other_members_and_only_the_leader_learns_of_all(
    pair: tuple[Client, Client],
) -> None:
    a, b = pair
    c = Client(a.group, "c")
    c.enter()
    assert c.last.code is Code.MEMBER_ID_REQUIRED
    assert a.heartbeat() is b.heartbeat() is Code.REBALANCE_IN_PROGRESS
    a.join()
    b.join()
    assert {a.generation, b.generation, c.generation} == {3}
    assert {member for member, _, _ in a.last.members} == {a.id, b.id, c.id}
    assert b.last.members == c.last.members == ()


def test_members_wait_for_the_leaders_assignment(pair: tuple[Client, Client]) -> None:
    a, b = pair
    assert (a.last, b.last) == (Synced(Code.NONE, b"1"), Synced(Code.NONE, b"2"))
    c = Client(a.group, "c")
    c.enter()
    a.join()
    b.join()
    c.sync()
    assert isinstance(c.last, Joined)
    a.sync(**{c.id: b"all"})
    assert c.last == Synced(Code.NONE, b"all")
    assert a.last == Synced(Code.NONE, b"")


def test_a_member_that_is_not_heard_of_for_its_session_goes_and_the_others_rebalance(
    pair: tuple[Client, Client],
) -> None:
    a, b = pair
    assert a.heartbeat(6_000) is Code.NONE
    assert a.group.next_deadline_ms() == SESSION_MS
    a.group.tick(SESSION_MS)
    assert list(a.group.members) == [a.id]
    assert b.heartbeat(SESSION_MS) is Code.UNKNOWN_MEMBER_ID
    assert a.heartbeat(SESSION_MS) is Code.REBALANCE_IN_PROGRESS
    a.join(SESSION_MS)
    assert (a.generation, a.group.state) == (3, State.COMPLETING_REBALANCE)


def test_who_does_not_come_back_in_time_is_left_behind(pair: tuple[Client, Client]) -> None:
    a, b = pair
    a.join(1_000)
    for now_ms in range(5_000, 1_000 + REBALANCE_MS, 5_000):
        assert b.heartbeat(now_ms) is Code.REBALANCE_IN_PROGRESS
        a.group.tick(now_ms)
    assert isinstance(a.last, Synced)
    a.group.tick(1_000 + REBALANCE_MS)
    assert (a.last.code, a.last.generation) == (Code.NONE, 3)
    assert list(a.group.members) == [a.id]


def test_who_has_joined_and_does_not_sync_is_left_behind(pair: tuple[Client, Client]) -> None:
    a, b = pair
    a.join()
    b.join()
    b.sync()
    for now_ms in range(5_000, REBALANCE_MS, 5_000):
        a.heartbeat(now_ms)
        a.group.tick(now_ms)
    a.group.tick(REBALANCE_MS)
    assert b.last == Synced(Code.REBALANCE_IN_PROGRESS)
    assert list(a.group.members) == [b.id]


def test_a_member_that_leaves_hands_over_at_once(pair: tuple[Client, Client]) -> None:
    a, b = pair
    assert a.group.leave(a.id, None, 0) is Code.NONE
    assert a.group.leave(a.id, None, 0) is Code.UNKNOWN_MEMBER_ID
    b.join()
    assert (b.last.leader, len(b.last.members)) == (b.id, 1)


def test_the_last_member_leaves_an_empty_group_with_its_generation(group: Group) -> None:
    a = Client(group, "a")
    a.enter()
    group.leave(a.id, None, 0)
    assert (group.state, group.generation, group.next_deadline_ms()) == (State.EMPTY, 2, None)
    b = Client(group, "b")
    b.enter()
    assert b.generation == 3


def test_a_join_during_a_sync_sends_everybody_back(pair: tuple[Client, Client]) -> None:
    a, b = pair
    a.join()
    b.join()
    b.sync()
    c = Client(a.group, "c")
    c.enter()
    assert b.last == Synced(Code.REBALANCE_IN_PROGRESS)


def test_a_follower_that_asks_again_unchanged_gets_its_generation_again(
    pair: tuple[Client, Client],
) -> None:
    _, b = pair
    b.join()
    assert (b.last.code, b.last.generation) == (Code.NONE, 2)
    b.protocols = (("range", b"more topics"),)
    b.join()
    assert b.group.state is State.PREPARING_REBALANCE


def test_requests_of_another_generation_are_refused(pair: tuple[Client, Client]) -> None:
    a, b = pair
    b.generation -= 1
    assert b.heartbeat() is Code.ILLEGAL_GENERATION
    b.sync()
    assert b.last.code is Code.ILLEGAL_GENERATION
    assert b.group.may_commit(b.id, None, b.generation, 0) is Code.ILLEGAL_GENERATION
    assert a.group.may_commit(a.id, None, a.generation, 0) is Code.NONE


def test_offsets_are_committed_by_members_or_while_there_are_none(
    pair: tuple[Client, Client],
) -> None:
    a, b = pair
    group = a.group
    assert group.may_commit("", None, -1, 0) is Code.UNKNOWN_MEMBER_ID
    a.join()
    assert group.may_commit(b.id, None, b.generation, 0) is Code.NONE
    b.join()
    assert group.may_commit(b.id, None, b.generation, 0) is Code.REBALANCE_IN_PROGRESS
    group.leave(a.id, None, 0)
    group.leave(b.id, None, 0)
    assert group.may_commit("", None, -1, 0) is Code.NONE


def test_a_commit_counts_as_a_heartbeat(pair: tuple[Client, Client]) -> None:
    a, b = pair
    for client in (a, b):
        a.group.may_commit(client.id, None, client.generation, 6_000)
    a.group.tick(SESSION_MS)
    assert len(a.group.members) == 2


def test_the_protocol_is_one_that_all_can_and_most_like(group: Group) -> None:
    first, second = (("sticky", b"s"), ("range", b"r")), (("range", b"r"), ("sticky", b"s"))
    clients = [
        Client(group, name, protocols=protocols)
        for name, protocols in (("a", first), ("b", second), ("c", second))
    ]
    clients[0].enter()
    clients[1].enter()
    clients[2].enter()
    clients[0].join()
    assert {client.last.protocol for client in clients} == {"range"}
    stranger = Client(group, "d", protocols=(("roundrobin", b""),))
    stranger.join()
    assert stranger.last.code is Code.INCONSISTENT_GROUP_PROTOCOL


@pytest.fixture
def static_pair(group: Group) -> tuple[Client, Client]:
    a, b = Client(group, "a", instance="ia"), Client(group, "b", instance="ib")
    a.enter()
    a.sync()
    b.enter()
    a.join()
    a.sync(**{a.id: b"1", b.id: b"2"})
    b.sync()
    return a, b


def test_a_static_member_that_comes_back_takes_its_place_without_a_rebalance(
    static_pair: tuple[Client, Client],
) -> None:
    a, b = static_pair
    again = Client(a.group, "b", instance="ib")
    again.join()
    assert (again.last.code, again.generation, a.group.state) == (Code.NONE, 2, State.STABLE)
    assert again.id != b.id
    again.sync()
    assert again.last == Synced(Code.NONE, b"2")
    assert b.heartbeat() is Code.FENCED_INSTANCE_ID
    b.join()
    assert b.last.code is Code.FENCED_INSTANCE_ID
    assert a.heartbeat() is Code.NONE


def test_a_static_leader_that_comes_back_is_told_to_leave_the_assignment_as_it_is(
    static_pair: tuple[Client, Client],
) -> None:
    a, b = static_pair
    again = Client(a.group, "a", instance="ia")
    again.join(skips_assignment=True)
    assert again.last.skip_assignment
    assert again.last.leader == again.id
    assert {member for member, _, _ in again.last.members} == {again.id, b.id}
    older = Client(a.group, "a", instance="ia")
    older.join()
    assert (older.last.skip_assignment, older.last.members) == (False, ())
    assert older.last.leader != older.id


def test_a_static_member_keeps_its_place_over_a_rebalance_that_it_misses(
    static_pair: tuple[Client, Client],
) -> None:
    a, b = static_pair
    c = Client(a.group, "c")
    c.enter()
    a.join()
    for now_ms in range(5_000, REBALANCE_MS, 5_000):
        b.heartbeat(now_ms)
        a.group.tick(now_ms)
    a.group.tick(REBALANCE_MS)
    assert b.id in a.group.members
    assert {member for member, _, _ in a.last.members} == {a.id, b.id, c.id}


def test_a_static_member_is_dismissed_by_its_instance(static_pair: tuple[Client, Client]) -> None:
    a, b = static_pair
    assert a.group.leave("", "nobody", 0) is Code.UNKNOWN_MEMBER_ID
    assert a.group.leave("somebody", "ib", 0) is Code.FENCED_INSTANCE_ID
    assert a.group.leave("", "ib", 0) is Code.NONE
    assert b.heartbeat() is Code.UNKNOWN_MEMBER_ID


ACTIONS = ("join", "sync", "heartbeat", "leave", "wait", "forget")


@example([(0, "join", 0), (0, "join", 0), (1, "join", 0), (0, "leave", 0)])
@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from(ACTIONS), st.integers(0, 8_000))))
def test_whatever_members_do_each_request_is_answered_once_and_the_silent_are_forgotten(
    steps: list[tuple[int, str, int]],
) -> None:
    group, now_ms = Group("g"), 0.0
    clients = [Client(group, str(n), instance="i" if n == 3 else None) for n in range(4)]
    asked = [0] * 4
    for who, action, later_ms in steps:
        client = clients[who]
        now_ms += later_ms
        while (deadline_ms := group.next_deadline_ms()) is not None and deadline_ms <= now_ms:
            group.tick(deadline_ms)
        # One request at a time on a connection; after a crash nobody hears the answer.
        waits = len(client.answers) < asked[who]
        if action in ("join", "sync") and not waits:
            asked[who] += 1
            client.join(now_ms) if action == "join" else client.sync(now_ms)
        elif action == "heartbeat":
            client.heartbeat(now_ms)
        elif action == "leave":
            group.leave(client.id, client.instance, now_ms)
        elif action == "forget" and not waits:
            client.id = ""
        stable = group.state is State.STABLE
        assert group.leader in group.members if stable else True
        assert (group.state is State.EMPTY) == (not group.members)
    for _ in range(100):
        deadline_ms = group.next_deadline_ms()
        if deadline_ms is None:
            break
        now_ms = max(now_ms, deadline_ms)
        group.tick(now_ms)
    assert (group.state, group.next_deadline_ms()) == (State.EMPTY, None)
    assert [len(client.answers) for client in clients] == asked
