"""Which node of a Redis Cluster has which slot, as the cluster has said: no socket, no clock."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import redis

Address = tuple[str, int]


class Topology:
    """What ``CLUSTER SLOTS`` answered last.

    Args:
        seed: a node to ask first.

    Attributes:
        is_known: whether it may be believed; False until it is learnt, and once it was wrong.
    """

    def __init__(self, seed: Address) -> None:
        self.is_known = False
        self._seed = seed
        self._silent: set[Address] = set()
        self._ranges: list[tuple[int, int, Address]] = []

    def addresses(self) -> list[Address]:
        """Whom to ask, in this order."""
        known = dict.fromkeys([*(address for _, _, address in self._ranges), self._seed])
        return sorted(known, key=self._silent.__contains__)

    def doubt(self, address: Address) -> None:
        """A node did not answer in time: the others are asked before it."""
        self._silent.add(address)

    def learn(self, answer: Sequence[Sequence[Any]], asked: Address) -> None:
        """Take what a node has answered."""
        ranges = []
        for first, last, (host, port, *_), *_ in answer:
            name = host.decode() if isinstance(host, bytes) else host
            # A node that does not know its own name is where it was asked.
            ranges.append((int(first), int(last), (name or asked[0], int(port))))
        self._ranges = ranges
        self._silent.discard(asked)
        self.is_known = True

    def forget(self) -> None:
        """Ask again before it is believed again."""
        self.is_known = False

    def node(self, slot: int) -> Address:
        """The node of a slot.

        Raises:
            ConnectionError: no node has it.
        """
        for first, last, address in self._ranges:
            if first <= slot <= last:
                return address
        # Its node may be given it meanwhile.
        self.forget()
        raise redis.ConnectionError(f"no node of the cluster has slot {slot}")
