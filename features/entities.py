"""Who is counted and what is counted: entities, measures, and counters.

A counter is a measure on an entity: ``item.clicks``. Rule: what a record adds is computed from
that record alone, so that the order between partitions cannot matter.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from tenuto.features.events import Event


@dataclass(frozen=True)
class Measure:
    """What one event record adds to a tile: 1, or the value of a field.

    Args:
        event: the event stream.
        field: the ``int`` field to add; ``None`` counts records.
        where: only records in which this ``bool`` field is set, or, for ``"position"``, known.
        by_position: kept apart by the position bucket of the record (counts only).
    """

    event: Event
    field: str | None = None
    where: str | None = None
    by_position: bool = False

    def __post_init__(self) -> None:
        fields = self.event.all_fields
        for name, types in ((self.field, (int,)), (self.where, (bool,))):
            if name is None or (name == "position" and types == (bool,)):
                continue
            if name not in fields or fields[name].type not in types:
                raise ValueError(
                    f"event {self.event.name!r} has no {types[0].__name__} field {name!r}: "
                    f"it has {', '.join(fields)}"
                )
        if self.by_position and self.field is not None:
            raise ValueError("only counts are kept by position")

    def __hash__(self) -> int:
        # Reads look measures up by the hundred.
        return hash((self.event.name, self.field, self.where, self.by_position))

    @property
    def definition(self) -> str:
        """Canonical text: what decides its numbers, and nothing else."""
        source = f"{self.event.name}.{self.field}" if self.field else self.event.name
        where = f" where {self.where}" if self.where else ""
        return f"{source}{where}{' by position' if self.by_position else ''}"


def count(event: Event, *, where: str | None = None, by_position: bool = False) -> Measure:
    """How many such records, for example ``count(plays, where="finished")``."""
    return Measure(event, None, where, by_position)


def total(event: Event, field: str, *, where: str | None = None) -> Measure:
    """The sum of an ``int`` field, for example ``total(plays, "play_ms_delta")``."""
    return Measure(event, field, where)


@dataclass(frozen=True)
class Counter:
    """A measure kept for an entity, with the name that columns show."""

    entity: Entity
    name: str
    measure: Measure

    def on(self, entity: Entity) -> Counter:
        """The same measure on another entity, such as the traffic that is its prior."""
        return Counter(entity, self.name, self.measure)


@dataclass(frozen=True, eq=False)
class Entity:
    """What counts are kept for: an item, a user, a (query, item) pair, an author.

    Args:
        name: prefix of its columns and part of its Redis keys.
        key: the field or fields of an event record that identify it; at a read the same names are
            taken from the candidate (``item_id``), the request (``user_id``, ``query``) or the
            context. No key at all is *traffic*: every event.
        counters: its measures by name, each an attribute: ``item.clicks``.
    """

    name: str
    key: tuple[str, ...]
    counters: Mapping[str, Measure]

    def __init__(
        self,
        name: str,
        key: str | tuple[str, ...] = (),
        counters: Mapping[str, Measure] | None = None,
    ) -> None:
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "key", (key,) if isinstance(key, str) else tuple(key))
        object.__setattr__(self, "counters", MappingProxyType(dict(counters or {})))
        for counter_name, measure in self.counters.items():
            for field in self.key:
                if field not in measure.event.all_fields:
                    raise ValueError(
                        f"{name}.{counter_name}: event {measure.event.name!r} has no field "
                        f"{field!r} to find its {name} by; declare it on the event"
                    )

    def __getattr__(self, name: str) -> Counter:
        counters: Mapping[str, Measure] = self.__dict__.get("counters", {})
        if name not in counters:
            own_name, known = self.__dict__.get("name"), ", ".join(counters)
            raise AttributeError(f"entity {own_name!r} counts {known}; not {name!r}")
        return Counter(self, name, counters[name])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Entity) and (self.name, self.key) == (other.name, other.key)

    def __hash__(self) -> int:
        return hash((self.name, self.key))

    @property
    def per_item(self) -> bool:
        """Whether candidates of one request have different ones (an unknown key is context)."""
        return any(field not in {"user_id", "query"} for field in self.key)


TRAFFIC = Entity("traffic")
"""All events together: the source of priors and of expected click rates."""
