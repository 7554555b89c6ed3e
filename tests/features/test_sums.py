from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tenuto.features.entities import Entity, Measure, count, total
from tenuto.features.events import Event, Field
from tenuto.features.layout import Layout, View
from tenuto.features.rules import TimeRules
from tenuto.features.sums import ViewSums
from tenuto.features.windows import Window

refunds = Event("refunds", fields={"cents": Field(int, doc="negative when charged back")})
MEASURES = {"cents": total(refunds, "cents"), "refunds": count(refunds)}
item = Entity("item", "item_id", MEASURES)
WINDOW = Window.of("1h")


def view_of_item() -> View:
    needs = [(getattr(item, name), WINDOW) for name in MEASURES]
    return Layout.of(needs, TimeRules()).views[0]


def stored(view: View, head: int, rows: dict[int, tuple[int, int]]) -> bytes:
    """A value with these (cents, refunds) by tile."""
    (ring,) = view.rings
    slots = np.zeros(ring.length, ring.dtype)
    for tile, row in rows.items():
        slots[tile % ring.length] = row
    return (head + 1).to_bytes(4, "big") + slots.tobytes()


big = st.integers(-(2**62), 2**62)
rows = st.dictionaries(st.integers(-61, 0), st.tuples(big, st.integers(0, 2**32 - 1)))


@settings(max_examples=100, deadline=None)
@given(entities=st.lists(st.none() | rows, min_size=1, max_size=4), ahead=st.integers(-70, 1))
def test_sums_of_any_sign_are_those_of_the_tiles_in_the_window(entities: Any, ahead: int) -> None:
    view = view_of_item()
    newest = 28_000_000
    now = newest - min(ahead, 0)
    values = [
        None if e is None else stored(view, newest, {newest + t: row for t, row in e.items()})
        for e in entities
    ]
    sums = ViewSums(view, values, now * WINDOW.tile_ms)
    found: dict[str, list[int]] = {
        name: sums.total(measure, WINDOW).tolist() for name, measure in MEASURES.items()
    }
    first = sums.first_seen_ms(MEASURES["refunds"], WINDOW).tolist()
    for at, entity in enumerate(entities):
        inside = {
            newest + age: row
            for age, row in (entity or {}).items()
            if now - WINDOW.tiles < newest + age <= now
        }
        cents = sum(row[0] for row in inside.values())
        assert found["cents"][at] == (cents + 2**63) % 2**64 - 2**63
        assert found["refunds"][at] == sum(row[1] for row in inside.values())
        assert bool(sums.seen[at]) == any(any(row) for row in inside.values())
        seen = [tile for tile, row in inside.items() if row[1]]
        assert first[at] == (min(seen) * WINDOW.tile_ms if seen else -1)


def test_no_entities_have_no_sums() -> None:
    sums = ViewSums(view_of_item(), [], 0)
    measure: Measure = MEASURES["cents"]
    assert sums.total(measure, WINDOW).tolist() == sums.seen.tolist() == []
