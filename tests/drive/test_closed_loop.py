"""The loop closed on itself: samples teach a ranker that orders the slates of later samples."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from loop_app import app, stream

from tenuto import local
from tenuto.drive.demo import simulate
from tenuto.drive.run import TRAINER, Run, RunOptions, Training, run_settings
from tenuto.drive.simulation import RANKER, Simulation
from tenuto.drive.simulator import Simulator
from tenuto.drive.world import SimulatorSettings
from tenuto.features.matrix import Matrix, Stamp
from tenuto.settings import load
from tenuto.snapshot.dataset import Samples
from tenuto.trainer.checkpoints.feed import CheckpointFeed

MINUTE_MS = 60_000
WORLD = SimulatorSettings(
    users=50, items=800, duration_ms=20 * MINUTE_MS, requests_per_s=0.4,
    preroll_ms=30 * MINUTE_MS, preroll_requests_per_s=0.05, seed=5,
)  # fmt: skip

Chaos = Callable[[Run, Simulation], None]


def run(
    stack: local.LocalStack, folder: Path, chaos: Chaos = lambda run, simulation: None
) -> dict[str, Any]:
    settings = load(env={
        "TENUTO_APP": "loop_app:app",
        "TENUTO_KAFKA__BOOTSTRAP": stack.bootstrap,
        "TENUTO_REDIS__URL": stack.redis_url,
        "TENUTO_TIME__LATENESS": "1m",
        "TENUTO_TRAINER__CHECKPOINT_EVERY": "2m",
        "TENUTO_TRAINER__BATCH_ROWS": "128",
        "TENUTO_TRAINER__KEEP": "1000",
    }).settings  # fmt: skip
    namespace = "t" + hashlib.sha256(str(folder).encode()).hexdigest()[:8]
    options = RunOptions(
        run_settings(settings, namespace=namespace, partitions=2),
        app,
        folder / "samples",
        folder / "work",
        start_stack=None,
        training=Training("live", folder / "checkpoints"),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parent))
        return simulate(options, Simulator(WORLD), on_boundary=chaos).figures


def files(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*.parquet"))
    }


@pytest.fixture(scope="module")
def undisturbed(
    embedded: local.LocalStack, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("undisturbed")
    return folder, run(embedded, folder)


def test_slates_are_ordered_by_the_newest_checkpoint_that_was_available(
    undisturbed: tuple[Path, dict[str, Any]],
) -> None:
    folder, figures = undisturbed
    assert figures["checkpoints"] >= 5
    rows = Samples(folder / "samples").table()
    ranked = rows.filter(np.asarray(rows.column("policy").to_pylist()) == RANKER)
    assert ranked.num_rows == 10 * figures["n_ranker"] > 1_000
    horizon_ms = stream.horizon_ms(MINUTE_MS)
    with CheckpointFeed(str(folder / "checkpoints"), model=app.name, follow=False) as feed:
        rankers = {v: feed.load(v) for v in set(ranked.column("model").to_pylist())}
        for version, as_of_ms in zip(
            ranked.column("model").to_pylist(), ranked.column("as_of_ms").to_pylist(), strict=True
        ):
            newest = feed.announced_at((as_of_ms - horizon_ms - 1) // 120_000 * 120_000)
            assert newest is not None
            assert newest.version == version
            assert newest.front_ms + horizon_ms < as_of_ms
    columns = app.feature_set().columns
    names = [column.name for column in columns]
    for start in range(0, ranked.num_rows, 10):
        slate = ranked.slice(start, 10)
        assert len(set(slate.column("request_id").to_pylist())) == 1
        values = np.stack([slate.column(name).to_numpy() for name in names], axis=1)
        matrix = Matrix(
            slate.column("item_id").to_pylist(), columns, values,
            np.zeros(values.shape, np.uint8), 0, Stamp((), np.zeros((0, 0))), "", {},
            slate.column("user_id")[0].as_py(), slate.column("query")[0].as_py(),
        )  # fmt: skip
        scores = rankers[slate.column("model")[0].as_py()].score(matrix)
        for name in ("ctr", "cvr", "ctcvr"):
            served = slate.column(f"served_{name}").to_numpy()
            np.testing.assert_allclose(served, scores[name], rtol=1e-5)
        assert (np.diff(slate.column("served_ctcvr").to_numpy()) <= 0).all()


def same(figures: dict[str, Any], others: dict[str, Any]) -> None:
    for name in ("weights", "version", "trained_rows", "auc_ctr", "ne_ctcvr", "auc_ctr_served"):
        assert figures[name] == others[name], name
    assert figures["ctr_ranker"] == others["ctr_ranker"]


def test_the_same_seed_gives_the_same_rows_and_weights_on_apache_kafka(
    kafka: local.LocalStack, tmp_path: Path, undisturbed: tuple[Path, dict[str, Any]]
) -> None:
    folder, figures = undisturbed
    same(run(kafka, tmp_path), figures)
    assert files(tmp_path / "samples") == files(folder / "samples")


def test_a_kill_of_the_trainer_or_the_joiner_changes_neither_rows_nor_weights(
    embedded: local.LocalStack, tmp_path: Path, undisturbed: tuple[Path, dict[str, Any]]
) -> None:
    folder, figures = undisturbed

    def kill(run: Run, simulation: Simulation) -> None:
        if simulation.counts.boundaries in (40, 70):
            run.workers.kill(TRAINER)
        if simulation.counts.boundaries == 55:
            run.workers.kill("join-default")

    disturbed = run(embedded, tmp_path, kill)
    assert disturbed["restarts"][TRAINER] == 2
    same(disturbed, figures)
    assert files(tmp_path / "samples") == files(folder / "samples")


def test_a_world_of_another_seed_is_another_one() -> None:
    one, other = Simulator(WORLD), Simulator(replace(WORLD, seed=6))
    start_ms = WORLD.start_ms
    assert one.requests(start_ms, start_ms + 60_000) != other.requests(start_ms, start_ms + 60_000)
