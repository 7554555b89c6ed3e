"""Groups on the wire: membership, and what is told about it."""

from __future__ import annotations

import asyncio
from typing import Any

from kafka.protocol.admin import DeleteGroupsResponse, DescribeGroupsResponse, ListGroupsResponse
from kafka.protocol.consumer import (
    HeartbeatResponse,
    JoinGroupResponse,
    LeaveGroupResponse,
    SyncGroupResponse,
)

from tenuto.local.broker.call import Call
from tenuto.local.broker.coordinator import MAX_SESSION_MS, MIN_SESSION_MS
from tenuto.local.broker.errors import Code, RefusedError
from tenuto.local.broker.group import Group, State
from tenuto.local.broker.member import Join, Joined, Synced
from tenuto.local.broker.node import Node

_TYPE = "Classic"
_DEAD = "Dead"


def join_group(node: Node, request: Any, call: Call) -> Any:
    """JoinGroup; answered when the group is complete."""
    join = Join(
        member_id=request.member_id,
        instance_id=request.group_instance_id,
        client_id=call.client_id,
        host=call.host,
        protocol_type=request.protocol_type,
        protocols=tuple((each.name, bytes(each.metadata)) for each in request.protocols),
        session_ms=request.session_timeout_ms,
        rebalance_ms=max(request.rebalance_timeout_ms, 0),
        must_know_id=call.version >= 4,
        skips_assignment=call.version >= 9,
    )
    later: asyncio.Future[Any] = node.loop.create_future()

    def answer(joined: Joined) -> None:
        if not later.done():
            later.set_result(_joined(joined, join.protocol_type, call.version))

    if not request.group_id:
        answer(Joined(Code.INVALID_GROUP_ID, join.member_id))
    elif not MIN_SESSION_MS <= join.session_ms <= MAX_SESSION_MS:
        answer(Joined(Code.INVALID_SESSION_TIMEOUT, join.member_id))
    else:
        group = node.coordinator.get_or_create(request.group_id)
        group.join(join, node.coordinator.now_ms(), answer)
        node.coordinator.wake(group)
    return later


def _joined(joined: Joined, protocol_type: str, version: int) -> Any:
    nothing = None if version >= 7 else ""
    failed = joined.code is not Code.NONE
    return JoinGroupResponse(
        throttle_time_ms=0,
        error_code=joined.code,
        generation_id=joined.generation,
        protocol_type=None if failed else protocol_type,
        protocol_name=nothing if failed else joined.protocol,
        leader=joined.leader,
        skip_assignment=joined.skip_assignment,
        member_id=joined.member_id,
        members=[
            JoinGroupResponse.JoinGroupResponseMember(
                member_id=member_id, group_instance_id=instance_id, metadata=metadata
            )
            for member_id, instance_id, metadata in joined.members
        ],
    )


def sync_group(node: Node, request: Any, call: Call) -> Any:
    """SyncGroup; answered when the leader's has come."""
    later: asyncio.Future[Any] = node.loop.create_future()
    group = node.coordinator.get(request.group_id)

    def answer(synced: Synced) -> None:
        if later.done():
            return
        failed = synced.code is not Code.NONE or group is None
        later.set_result(
            SyncGroupResponse(
                throttle_time_ms=0,
                error_code=synced.code,
                protocol_type=None if failed or group is None else group.protocol_type,
                protocol_name=None if failed or group is None else group.protocol,
                assignment=synced.assignment,
            )
        )

    if group is None:
        answer(Synced(Code.UNKNOWN_MEMBER_ID))
    elif _other_protocol(group, request):
        answer(Synced(Code.INCONSISTENT_GROUP_PROTOCOL))
    else:
        group.sync(
            request.member_id,
            request.group_instance_id,
            request.generation_id,
            {each.member_id: bytes(each.assignment) for each in request.assignments},
            node.coordinator.now_ms(),
            answer,
        )
        node.coordinator.wake(group)
    return later


def _other_protocol(group: Group, request: Any) -> bool:
    return (request.protocol_type is not None and request.protocol_type != group.protocol_type) or (
        request.protocol_name is not None
        and group.protocol is not None
        and request.protocol_name != group.protocol
    )


def heartbeat(node: Node, request: Any, call: Call) -> Any:
    """Heartbeat."""
    group = node.coordinator.get(request.group_id)
    code = Code.UNKNOWN_MEMBER_ID
    if group is not None:
        code = group.heartbeat(
            request.member_id,
            request.group_instance_id,
            request.generation_id,
            node.coordinator.now_ms(),
        )
    return HeartbeatResponse(throttle_time_ms=0, error_code=code)


def leave_group(node: Node, request: Any, call: Call) -> Any:
    """LeaveGroup, of one member or, by newer clients, of several."""
    group = node.coordinator.get(request.group_id)

    def left(member_id: str, instance_id: str | None) -> Code:
        if group is None:
            return Code.UNKNOWN_MEMBER_ID
        return group.leave(member_id, instance_id, node.coordinator.now_ms())

    code, members = Code.NONE, []
    if call.version < 3:
        code = left(request.member_id, None)
    else:
        members = [
            LeaveGroupResponse.MemberResponse(
                member_id=each.member_id,
                group_instance_id=each.group_instance_id,
                error_code=left(each.member_id, each.group_instance_id),
            )
            for each in request.members
        ]
    if group is not None:
        node.coordinator.wake(group)
    return LeaveGroupResponse(throttle_time_ms=0, error_code=code, members=members)


def list_groups(node: Node, request: Any, call: Call) -> Any:
    """ListGroups, by state and type where the client says which."""
    states = {state.lower() for state in request.states_filter or ()}
    types = {type.lower() for type in request.types_filter or ()}
    return ListGroupsResponse(
        throttle_time_ms=0,
        error_code=Code.NONE,
        groups=[
            ListGroupsResponse.ListedGroup(
                group_id=group.id,
                protocol_type=group.protocol_type,
                group_state=group.state.value,
                group_type=_TYPE,
            )
            for group in node.coordinator
            if (not states or group.state.lower() in states)
            and (not types or _TYPE.lower() in types)
        ],
    )


def describe_groups(node: Node, request: Any, call: Call) -> Any:
    """DescribeGroups; one that is not there is dead, as in Kafka."""
    return DescribeGroupsResponse(
        throttle_time_ms=0,
        groups=[
            _described(node.coordinator.get(group_id), group_id) for group_id in request.groups
        ],
    )


def _described(group: Group | None, group_id: str) -> Any:
    group_class = DescribeGroupsResponse.DescribedGroup
    if group is None:
        return group_class(
            error_code=Code.NONE,
            group_id=group_id,
            group_state=_DEAD,
            protocol_type="",
            protocol_data="",
            members=[],
        )
    # In between, the protocol and so the metadata are not settled.
    protocol = group.protocol if group.state is State.STABLE else None
    return group_class(
        error_code=Code.NONE,
        group_id=group_id,
        group_state=group.state.value,
        protocol_type=group.protocol_type,
        protocol_data=protocol or "",
        members=[
            group_class.DescribedGroupMember(
                member_id=member.id,
                group_instance_id=member.instance_id,
                client_id=member.client_id,
                client_host=f"/{member.host}",
                member_metadata=b"" if protocol is None else member.protocols[protocol],
                member_assignment=b"" if protocol is None else member.assignment,
            )
            for member in group.members.values()
        ],
    )


def delete_groups(node: Node, request: Any, call: Call) -> Any:
    """DeleteGroups: those without members."""
    results = []
    for group_id in request.groups_names:
        code = Code.NONE
        try:
            node.coordinator.delete(group_id)
        except RefusedError as error:
            code = error.code
        results.append(
            DeleteGroupsResponse.DeletableGroupResult(group_id=group_id, error_code=code)
        )
    return DeleteGroupsResponse(throttle_time_ms=0, results=results)
