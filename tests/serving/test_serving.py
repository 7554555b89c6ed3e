"""What a ranking engineer imports, against a real Redis and broker."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from prometheus_client import REGISTRY
from serving_setup import NOW, PARTITIONS, environment, set_up
from topic_records import records_of

import tenuto
from tenuto import local
from tenuto.presets import video
from tenuto.settings import Settings, load
from tenuto.snapshot.record import Snapshot, decode
from tenuto.streams.capture import sampled
from tenuto.streams.headers import header

ITEMS = ["i0", "i1", "i2", "unseen"]


@pytest.fixture
def env(embedded: local.LocalStack, redis_url: str) -> dict[str, str]:
    return environment(embedded)


@pytest.fixture
def t(env: dict[str, str]) -> Iterator[tenuto.Tenuto]:
    with tenuto.connect("tenuto.presets.video:app", settings=set_up(env)) as client:
        yield client


def request(number: int = 0) -> tenuto.Request:
    return tenuto.Request(f"r{number}", "u1", "q1", NOW)


def written(settings: Settings, topic: str) -> list[Any]:
    return records_of(settings.kafka.bootstrap, f"{settings.namespace}.{topic}")


def snapshots(settings: Settings) -> list[Snapshot]:
    return [decode(record.value) for record in written(settings, "snapshots")]


def metric(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


@pytest.mark.stack
def test_a_read_gives_values_and_their_states(t: tenuto.Tenuto) -> None:
    matrix = t.read(request(), ITEMS, {"published_ts": [NOW - 5_000] * 4}, timeout_ms=5_000)
    assert matrix.values.dtype == np.float32
    assert matrix.column("item_clicks_1h")[:3].tolist() == [1, 2, 3]
    assert matrix.state("item_clicks_1h").tolist() == [0, 0, 0, tenuto.State.MISSING]
    assert matrix.column("item_age").tolist() == [5.0] * 4


@pytest.mark.stack
def test_a_read_is_counted_by_state_time_and_age(t: tenuto.Tenuto) -> None:
    names = ["tenuto_read_seconds_count", "tenuto_read_age_seconds_sum"]
    before = [metric(name) for name in names]
    states = {state.name.lower() for state in tenuto.State}
    values = {s: metric("tenuto_read_values_total", state=s) for s in states}
    matrix = t.read(request(), ITEMS, timeout_ms=5_000)
    after = [metric(name) for name in names]
    # The slowest partition's arrival is two seconds before the request.
    assert [b - a for a, b in zip(before, after, strict=True)] == pytest.approx([1, 2.0])
    for state in tenuto.State:
        name = state.name.lower()
        counted = metric("tenuto_read_values_total", state=name) - values[name]
        assert counted == (matrix.states == state).sum()


@pytest.mark.stack
@pytest.mark.parametrize("shown", [["i2", "unseen", "i0"], [2, 3, 0], np.array([2, 3, 0])])
def test_a_capture_holds_what_was_shown_in_order_with_its_scores(
    t: tenuto.Tenuto, shown: Any
) -> None:
    matrix = t.read(request(), ITEMS, timeout_ms=5_000)
    assert t.capture(
        request(),
        shown=shown,
        matrix=matrix,
        scores={"ctr": np.array([0.0, 0.1, 0.2, 0.3])},
        policy="mmoe",
        slice="treatment",
        model="v7",
        propensity=0.5,
        positions=[4, 5, -1],
    )
    t.flush()
    (snapshot,) = snapshots(t.settings)
    assert snapshot.items == ["i2", "unseen", "i0"]
    assert snapshot.matrix.tobytes() == matrix.values[[2, 3, 0]].tobytes()
    assert snapshot.state_matrix.tolist() == matrix.states[[2, 3, 0]].tolist()
    assert np.frombuffer(snapshot.scores["ctr"], "<f4").tolist() == pytest.approx([0.2, 0.3, 0.0])
    assert (snapshot.request_id, snapshot.request_ts, snapshot.as_of) == ("r0", NOW, NOW)
    assert (snapshot.policy, snapshot.slice, snapshot.model) == ("mmoe", "treatment", "v7")
    assert (snapshot.propensity, snapshot.weight) == (0.5, 1.0)
    assert snapshot.slots.tolist() == [4, 5, -1]
    clicks = snapshot.log.topics.index("clicks")
    assert snapshot.log.next[clicks * PARTITIONS] == 6


@pytest.mark.stack
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"shown": ["i0", "i9"]}, r"shown\[1\]: 'i9' is not among the matrix's items"),
        ({"shown": [0, 4]}, r"shown\[1\]: 4 must be an index of the matrix's 4 items"),
        ({"shown": [-1]}, r"shown\[0\]: -1 must be an index"),
        ({"shown": [0], "scores": {"ctr": [0.5]}}, r"scores\['ctr'\]: shape \(1,\): must be \(4"),
        ({"shown": [0, 1], "positions": [0]}, r"positions: 1 of them: must be 2"),
    ],
)  # fmt: skip
def test_what_does_not_fit_the_matrix_is_named(
    t: tenuto.Tenuto, arguments: dict[str, Any], message: str
) -> None:
    matrix = t.read(request(), ITEMS, timeout_ms=5_000)
    with pytest.raises(tenuto.CaptureError, match=message):
        t.capture(request(), matrix=matrix, **arguments)


@pytest.mark.stack
def test_requests_outside_the_sample_cost_nothing_and_the_others_carry_their_weight(
    env: dict[str, str],
) -> None:
    settings = set_up(env | {"TENUTO_CAPTURE__SAMPLE_RATE": "0.5"})
    with tenuto.connect(settings=settings) as t:
        matrix = t.read(request(), ITEMS, timeout_ms=5_000)
        inside = [n for n in range(20) if sampled(f"r{n}", 0.5)]
        for number in range(20):
            # Nothing is looked at where the request is not in the sample.
            shown = ["i0"] if number in inside else ["nonsense"]
            taken = t.capture(request(number), shown=shown, matrix=matrix)
            assert taken == (number in inside)
    found = snapshots(settings)
    assert sorted(s.request_id for s in found) == sorted(f"r{n}" for n in inside)
    assert {s.weight for s in found} == {2.0}


@pytest.mark.stack
def test_events_are_sent_and_checked(t: tenuto.Tenuto) -> None:
    click = {
        "request_id": "r1", "user_id": "u1", "query": "", "item_id": "i1", "position": 0, "ts": NOW
    }  # fmt: skip
    t.send("clicks", click).result(20)
    t.send_many(video.clicks, [click | {"item_id": "i2"}])
    t.flush()
    records = written(t.settings, "clicks")
    assert [header(record.headers, "sent_at") is not None for record in records] == [True, True]
    with pytest.raises(tenuto.InvalidEventError, match="position: -1 in clicks"):
        t.send("clicks", click | {"position": -1})


@pytest.mark.stack
def test_another_partition_count_than_the_workers_is_an_error_that_names_the_setting(
    env: dict[str, str],
) -> None:
    set_up(env)
    before = metric("tenuto_read_errors_total", reason="partitions")
    for partitions in ("1", "24"):
        t = tenuto.connect(env=env | {"TENUTO_KAFKA__PARTITIONS": partitions})
        with pytest.raises(tenuto.PartitionCountError, match=r"kafka\.partitions"):
            t.read(request(), ITEMS, timeout_ms=5_000)
    assert metric("tenuto_read_errors_total", reason="partitions") == before + 2


@pytest.mark.stack
def test_the_layout_follows_the_rules_of_time_in_the_settings(env: dict[str, str]) -> None:
    settings = load(env=env | {"TENUTO_TIME__LATENESS": "7m"}).settings
    matrix = tenuto.connect(settings=settings).read(request(), ITEMS, timeout_ms=5_000)
    rules = settings.time.rules()
    assert matrix.layout == video.app.feature_set(rules).layout.digest
    assert matrix.layout != video.app.feature_set().layout.digest


@pytest.mark.stack
def test_a_frozen_redis_is_a_missed_deadline_and_the_next_read_is_right(
    t: tenuto.Tenuto, embedded: local.LocalStack
) -> None:
    expected = t.read(request(), ITEMS, timeout_ms=5_000).values.tobytes()
    before = metric("tenuto_read_errors_total", reason="deadline")
    os.kill(embedded.redis_pid, signal.SIGSTOP)
    try:
        with pytest.raises(tenuto.DeadlineExceededError, match="within 50 ms"):
            t.read(request(), ["i0"])
    finally:
        os.kill(embedded.redis_pid, signal.SIGCONT)
    assert t.read(request(), ITEMS, timeout_ms=5_000).values.tobytes() == expected
    assert metric("tenuto_read_errors_total", reason="deadline") == before + 1


def test_a_redis_that_is_not_there_is_an_error_and_never_a_zero() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        url = f"redis://127.0.0.1:{closed.getsockname()[1]}"
    before = metric("tenuto_read_errors_total", reason="store")
    with pytest.raises(tenuto.StoreUnavailableError, match="redis at 127"):
        tenuto.connect(env={"TENUTO_REDIS__URL": url}).read(request(), ITEMS)
    assert metric("tenuto_read_errors_total", reason="store") == before + 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"app": "tenuto.presets.video"}, "must be module:object"),
        ({"app": "nowhere.ranking:app"}, "there is no module nowhere.ranking"),
        ({"app": "tenuto.presets.video:small"}, "is no Platform: there is app"),
        ({"env": {"TENUTO_KAFKA__PARTITIONS": "0"}}, r"kafka.partitions \(\$TENUTO_KAFKA__PART"),
        ({"config": "missing.toml"}, "missing.toml: cannot be read"),
    ],
)
def test_a_wrong_setting_is_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(tenuto.SettingsError, match=message):
        tenuto.connect(**{"env": {}, **arguments})


@pytest.mark.stack
def test_parent_and_child_of_a_fork_both_read_and_capture(t: tenuto.Tenuto) -> None:
    def serve(number: int) -> None:
        matrix = t.read(request(number), ITEMS, timeout_ms=20_000)
        assert matrix.column("item_clicks_1h")[:3].tolist() == [1, 2, 3]
        assert t.capture(request(number), shown=["i1"], matrix=matrix)

    serve(0)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            serve(1)
            t.close(20)
            code = 0
        finally:
            os._exit(code)
    serve(2)
    assert os.waitpid(child, 0)[1] == 0
    t.close(20)
    assert sorted(s.request_id for s in snapshots(t.settings)) == ["r0", "r1", "r2"]


@pytest.mark.stack
async def test_an_asyncio_server_reads_captures_and_sends_the_same(env: dict[str, str]) -> None:
    settings = set_up(env)
    expected = tenuto.connect(settings=settings).read(request(), ITEMS, timeout_ms=5_000)
    async with tenuto.connect_async(settings=settings) as t:
        matrix = await t.read(request(), ITEMS, timeout_ms=5_000)
        assert matrix.values.tobytes() == expected.values.tobytes()
        assert t.capture(request(), shown=["i2"], matrix=matrix)
        click = {"request_id": "r1", "user_id": "u1", "query": "", "item_id": "i1", "ts": NOW}
        sent = await t.send("clicks", click)
        assert sent.topic == f"{settings.namespace}.clicks"
        await t.send_many("clicks", [click])
        await t.flush()
    assert [s.items for s in snapshots(settings)] == [["i2"]]
    assert len(written(settings, "clicks")) == 2


@pytest.mark.stack
async def test_an_asyncio_read_keeps_its_deadline_and_the_next_one_is_right(
    env: dict[str, str], embedded: local.LocalStack
) -> None:
    async with tenuto.connect_async(settings=set_up(env)) as t:
        expected = (await t.read(request(), ITEMS, timeout_ms=5_000)).values.tobytes()
        os.kill(embedded.redis_pid, signal.SIGSTOP)
        try:
            with pytest.raises(tenuto.DeadlineExceededError, match="within 50 ms"):
                await t.read(request(), ["i0"])
        finally:
            os.kill(embedded.redis_pid, signal.SIGCONT)
        assert (await t.read(request(), ITEMS, timeout_ms=5_000)).values.tobytes() == expected


LIGHT = """
import sys
import tenuto
assert "numpy" not in sys.modules
with tenuto.connect("tenuto.presets.video:app") as t:
    request = tenuto.Request("r1", "u1", "q1", 1_700_000_000_000)
    matrix = t.read(request, ["i1", "i2"], timeout_ms=20_000)
    assert t.capture(request, shown=["i2"], matrix=matrix)
    t.flush(20)
print(*sys.modules)
"""
HEAVY = {"torch", "faust", "mode", "aiokafka", "pyarrow", "pandas", "polars", "click"}


@pytest.mark.stack
def test_a_ranker_loads_neither_torch_nor_faust_nor_arrow(env: dict[str, str]) -> None:
    set_up(env)
    command = [sys.executable, "-c", LIGHT]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=60, check=False, env=os.environ | env
    )
    assert done.returncode == 0, done.stderr
    assert not HEAVY & {name.partition(".")[0] for name in done.stdout.split()}


def test_every_name_that_tenuto_offers_is_there() -> None:
    for name in tenuto.__all__:
        assert getattr(tenuto, name) is not None
        assert name in dir(tenuto)
    assert tenuto.__version__[0].isdigit()
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = tenuto.nonsense
