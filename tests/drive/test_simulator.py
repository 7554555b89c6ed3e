"""The simulated world is a function of its seed, and its users behave as the docstrings say."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections import Counter

import pytest

from tenuto.drive.simulator import Simulator, examination
from tenuto.drive.slates import SLATE, policy_of, shuffled
from tenuto.drive.source import EventRecord, Request
from tenuto.drive.world import HOUR_MS, START_MS, SimulatorSettings
from tenuto.presets.video_events import events
from tenuto.streams.codec import EventCodec

SHORT = SimulatorSettings(seed=3, duration_ms=HOUR_MS // 2, preroll_ms=HOUR_MS)
DIGEST = """
import hashlib
from tenuto.drive.simulator import Simulator, SimulatorSettings
one = Simulator(SimulatorSettings(seed=3, duration_ms=120_000, preroll_ms=600_000))
told = hashlib.sha256()
for source in (one.preroll, one):
    for request in source.requests(0, 2**50):
        told.update(repr((request, source.policy_of(request.request_id))).encode())
        told.update(repr(source.outcomes(request, source.shuffled(request)[:10])).encode())
print(told.hexdigest())
"""


@pytest.fixture(scope="module")
def simulator() -> Simulator:
    return Simulator(SHORT)


@pytest.fixture(scope="module")
def requests(simulator: Simulator) -> list[Request]:
    return simulator.requests(simulator.start_ms, simulator.end_ms + 1)


def slate(request: Request) -> list[int]:
    return shuffled(request.request_id, len(request.candidates))[:SLATE]


@pytest.fixture(scope="module")
def records(simulator: Simulator, requests: list[Request]) -> list[EventRecord]:
    return [one for request in requests for one in simulator.outcomes(request, slate(request))]


def test_the_same_seed_is_the_same_world_in_any_process() -> None:
    digests = {
        subprocess.run(
            [sys.executable, "-c", DIGEST],
            env={**os.environ, "PYTHONHASHSEED": str(hash_seed)},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for hash_seed in (1, 2)
    }
    assert len(digests) == 1


def test_another_seed_is_another_world(requests: list[Request]) -> None:
    other = Simulator(SimulatorSettings(seed=4, duration_ms=HOUR_MS // 2, preroll_ms=HOUR_MS))
    assert other.requests(0, 2**50)[:5] != requests[:5]


def test_outcomes_do_not_depend_on_what_was_asked_before(
    simulator: Simulator, requests: list[Request]
) -> None:
    some = requests[:200]
    in_order = {one.request_id: simulator.outcomes(one, slate(one)) for one in some}
    other = Simulator(SHORT)
    random.Random(1).shuffle(some)
    for request in some:
        other.outcomes(request, slate(request)[::-1])
        assert other.outcomes(request, slate(request)) == in_order[request.request_id]


def test_requests_of_any_cut_are_the_same_requests(
    simulator: Simulator, requests: list[Request]
) -> None:
    cuts = range(START_MS, START_MS + HOUR_MS // 2 + 7_001, 7_001)
    pieces = [simulator.requests(at, at + 7_001) for at in reversed(cuts)]
    assert [one for piece in reversed(pieces) for one in piece] == requests
    assert [(one.ts_ms, one.request_id) for one in requests] == sorted(
        (one.ts_ms, one.request_id) for one in requests
    )


def test_the_next_request_is_found_from_any_time(
    simulator: Simulator, requests: list[Request]
) -> None:
    times = [one.ts_ms for one in requests]
    assert (simulator.start_ms, simulator.end_ms) == (times[0], times[-1])
    for from_ms in (0, *times[:50], times[50] + 1, times[-1]):
        assert simulator.next_request_ms(from_ms) == next(t for t in times if t >= from_ms)
    assert simulator.next_request_ms(times[-1] + 1) is None


def test_two_rankers_that_show_an_item_at_one_place_meet_one_user(
    simulator: Simulator, requests: list[Request]
) -> None:
    for request in requests[:200]:
        order = slate(request)
        other = [*order[:4], *reversed(order[4:])]
        mine, theirs = (
            [one for one in simulator.outcomes(request, shown) if one.fields["position"] < 4]
            for shown in (order, other)
        )
        assert mine == theirs


def test_candidates_are_alive_and_bring_their_context(
    simulator: Simulator, requests: list[Request]
) -> None:
    for request in requests:
        n = len(request.candidates)
        assert 20 <= n == len(set(request.candidates)) <= 40
        assert request.positions is None
        scores, published = request.context["recall_score"], request.context["published_ts"]
        assert len(scores) == len(published) == n
        assert list(scores) == sorted(scores, reverse=True)
        oldest_ms = request.ts_ms - SHORT.item_lifetime_ms - 60_000
        assert all(oldest_ms <= one <= request.ts_ms for one in published)


def test_click_through_falls_with_position(records: list[EventRecord]) -> None:
    impressions, clicks = (
        Counter(one.fields["position"] // 3 for one in records if one.event == event)
        for event in ("impressions", "clicks")
    )
    rates = [clicks[at] / impressions[at] for at in range(3)]
    assert rates == sorted(rates, reverse=True)
    assert rates[0] > 1.3 * rates[2]
    assert [examination(at) for at in (0, 9)] == pytest.approx([1.0, 0.27], abs=0.01)


def test_events_come_after_their_request_and_in_their_order(
    simulator: Simulator, requests: list[Request]
) -> None:
    for request in requests[:500]:
        found = simulator.outcomes(request, slate(request))
        assert [one.ts_ms for one in found] == sorted(one.ts_ms for one in found)
        first: dict[tuple[str, str], int] = {}
        for one in found:
            assert request.ts_ms < one.ts_ms == one.fields["ts"]
            first.setdefault((one.fields["item_id"], one.event), one.ts_ms)
        for (item, event), ts in first.items():
            before = {"clicks": "impressions", "plays": "impressions", "likes": "plays"}.get(event)
            assert before is None or first[item, before] <= ts


def test_records_carry_exactly_the_declared_fields_and_pass_the_codec(
    records: list[EventRecord],
) -> None:
    declared = {event.name: set(event.all_fields) for event in events}
    assert {one.event for one in records} == set(declared)
    assert all(set(one.fields) == declared[one.event] for one in records)
    codecs = {event.name: EventCodec(event) for event in events}
    for one in records[:5_000]:
        codecs[one.event].encode(one.fields)


def test_some_clicks_come_late_and_some_plays_without_a_click(records: list[EventRecord]) -> None:
    times = {
        event: {
            (one.fields["request_id"], one.fields["item_id"]): one.ts_ms
            for one in records
            if one.event == event
        }
        for event in ("impressions", "clicks", "plays")
    }
    waits = [ts - times["impressions"][key] for key, ts in times["clicks"].items()]
    assert sum(wait > 60_000 for wait in waits) > 10
    assert set(times["plays"]) - set(times["clicks"])


def test_items_trend_and_fade(simulator: Simulator) -> None:
    world = simulator._world
    heights = [
        (world.trend(item, start_ms + 60_000), world.trend(item, start_ms + 6 * half_life_ms))
        for item in range(200)
        for start_ms, _, half_life in world._bursts[item][-1:]
        for half_life_ms in [int(half_life)]
    ]
    assert len(heights) > 100
    assert all(early > 0.5 and late < early / 4 for early, late in heights)


def test_a_request_is_ordered_by_shuffle_smoothed_ctr_or_ranker_in_their_shares() -> None:
    shares = Counter(policy_of(f"r{n:08d}") for n in range(20_000))
    assert shares["shuffle"] / 20_000 == pytest.approx(0.20, abs=0.01)
    assert shares["smoothed_ctr"] / 20_000 == pytest.approx(0.10, abs=0.01)


def test_a_shuffle_is_a_uniform_permutation() -> None:
    orders = Counter(tuple(shuffled(f"r{n}", 3)) for n in range(12_000))
    assert len(orders) == 6
    assert all(count == pytest.approx(2_000, abs=200) for count in orders.values())
    assert sorted(shuffled("r", 40)) == list(range(40))
    assert shuffled("r", 40, seed=1) != shuffled("r", 40, seed=2)


def test_the_preroll_is_the_same_world_before_the_start_shuffled(simulator: Simulator) -> None:
    before = simulator.preroll.requests(0, START_MS)
    assert len(before) == 1_800
    assert START_MS - HOUR_MS <= before[0].ts_ms < before[-1].ts_ms < simulator.start_ms
    assert {simulator.preroll.policy_of(one.request_id) for one in before} == {"shuffle"}
    after = {item for one in simulator.requests(0, 2**50) for item in one.candidates}
    assert after & {item for one in before for item in one.candidates}


def test_a_setting_that_no_world_can_have_is_named() -> None:
    with pytest.raises(ValueError, match=r"^users: 0: must be > 0$"):
        SimulatorSettings(users=0)
    with pytest.raises(ValueError, match=r"^items: 10: must be ≥ 40 for each of 20 topics$"):
        SimulatorSettings(items=10)


def test_a_world_without_preroll_has_no_request_in_it() -> None:
    none = Simulator(SimulatorSettings(preroll_requests_per_s=0.0, preroll_ms=0)).preroll
    assert len(none) == 0
    assert none.next_request_ms(0) is None
    assert none.requests(0, 2**50) == []
