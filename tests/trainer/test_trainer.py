"""The loop: weights, metrics and versions are a function of the samples, whatever happens to it."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from memory_topic import Log, MemorySource, random_log
from prometheus_client import CollectorRegistry
from sample_rows import COLUMNS, spec_with
from sklearn.metrics import roc_auc_score

from tenuto.trainer.checkpoints.manifest import Announcement, Origin, decode_announcement
from tenuto.trainer.checkpoints.reader import CheckpointReader
from tenuto.trainer.checkpoints.tensors import arrays_of, weights_hash
from tenuto.trainer.checkpoints.writer import Publisher
from tenuto.trainer.learner import Learner, Predictions
from tenuto.trainer.model_settings import ModelSettings
from tenuto.trainer.resume import ModeError
from tenuto.trainer.rows import Rows, SchemaError, concat, learnt_label, rows_of
from tenuto.trainer.train_metrics import TrainMetrics
from tenuto.trainer.train_settings import Mode, TrainSettings
from tenuto.trainer.trainer import Trainer, TrainingError
from tenuto.trainer.training import Training

SMALL = ModelSettings(
    experts=2, expert_hidden=8, expert_size=8, tower_size=8, id_size=4, bucket_size=4, buckets=4,
    positions=6, position_size=4, admit_after=2, standardise_rows=60,
)  # fmt: skip
HORIZON_MS, LATENESS_MS = 120_000, 30_000
EVERY_MS = 180_000
BATCH_ROWS = 16
MODES: list[Mode] = ["live", "as_of"]


class KilledError(BaseException):
    """Stands for kill -9: nothing catches it."""


def training(store: Path, mode: Mode = "live", **changes: Any) -> Training:
    given = {"batch_rows": BATCH_ROWS, "checkpoint_every": "3m", "window_rows": 50, "keep": 1000}
    settings = TrainSettings(
        store=str(store), mode=mode, metrics_file=str(store / "metrics.json"), **given | changes
    )
    return Training(spec_with(SMALL), settings, "m", Origin("samples"), HORIZON_MS, LATENESS_MS)


def trainer_of(what: Training, log: Log, seed: int = 0) -> Trainer:
    metrics = TrainMetrics(CollectorRegistry())
    return Trainer(what, lambda positions: MemorySource(log, positions, seed), metrics)


def outcome(store: Path) -> dict[str, Any]:
    """All that a run leaves: versions with the hashes of their files, and its figures."""
    reader = CheckpointReader(str(store), "m")
    manifests = [reader.manifest(version) for version in reader.versions()]
    return {
        "versions": {m.version: {p: f.sha256 for p, f in m.files.items()} for m in manifests},
        "weights": manifests[-1].weights,
        "figures": json.loads((store / "metrics.json").read_bytes()),
    }


def announcements(store: Path) -> list[Announcement]:
    files = sorted((store / "m/feed").glob("*.json"))
    return [decode_announcement(file.read_bytes(), file.name) for file in files]


def canonical(log: Log) -> Rows:
    """All rows of a log in order, by a sort of everything."""
    spec = spec_with(SMALL)
    rows = concat([rows_of(log.batch(p, asked), spec) for p, asked in log.asked.items()])
    order = np.lexsort((rows.item_index, rows.offset, rows.partition, rows.arrival_ms // 1000))
    return rows.take(order)


def requests(rows: Rows) -> Iterator[slice]:
    """Each request's rows."""
    places = list(zip(rows.partition.tolist(), rows.offset.tolist(), strict=True))
    start = 0
    for _, group in groupby(places):
        stop = start + len(list(group))
        yield slice(start, stop)
        start = stop


def naive_batches(rows: Rows) -> list[tuple[int, int]]:
    """Bounds of the batches, request by request; the last one may be short."""
    bounds, start = [], 0
    for request in requests(rows):
        if request.stop - start >= BATCH_ROWS:
            bounds.append((start, request.stop))
            start = request.stop
    return [*bounds, (start, len(rows))] if start < len(rows) else bounds


@pytest.fixture(scope="module")
def log() -> Log:
    return random_log(7, served=["ctr"])


@pytest.fixture(scope="module")
def uninterrupted(
    log: Log, tmp_path_factory: pytest.TempPathFactory
) -> Mapping[Mode, dict[str, Any]]:
    found = {}
    for mode in MODES:
        store = tmp_path_factory.mktemp(mode)
        trainer_of(training(store, mode), log).run(until_end=True)
        found[mode] = outcome(store) | {"announced": announcements(store)}
    return found


# What is learnt.


def test_the_loop_learns_the_batches_of_the_canonical_order(
    log: Log, uninterrupted: Mapping[Mode, dict[str, Any]]
) -> None:
    rows, learner, newest_ms = canonical(log), Learner(spec_with(SMALL)), 0
    labels, scores = [], []
    for number, (start, stop) in enumerate(naive_batches(rows)):
        batch = rows.slice(start, stop)
        newest_ms = max(newest_ms, int(batch.request_ts_ms.max()))
        seen = batch.seen()
        labels.append(learnt_label(seen, learner.spec.heads, 1))
        scores.append(learner.predict(seen, at="logged", newest_ts_ms=newest_ms)["ctcvr"])
        learner.learn(batch, batch=number, newest_ts_ms=newest_ms)
    parts = {"serving": learner.serving_tensors(), "training": learner.training_tensors()}
    live = uninterrupted["live"]
    assert weights_hash({n: arrays_of(tensors) for n, tensors in parts.items()}) == live["weights"]
    auc = roc_auc_score(np.concatenate(labels), np.concatenate(scores))
    figures = live["figures"]["metrics"]["next"]["ctcvr"]["lifetime"]
    assert figures["rows"] == len(rows.seen())
    assert abs(figures["auc"] - auc) <= figures["auc_error"] + 1e-6


def test_versions_hold_the_batches_that_are_whole_at_their_point_of_the_grid(
    log: Log, uninterrupted: Mapping[Mode, dict[str, Any]]
) -> None:
    rows = canonical(log)
    batches, second_ms = naive_batches(rows), rows.arrival_ms // 1000 * 1000
    end_ms = log.end_ms // 1000 * 1000 + 1000
    expected, before = [], 0
    for point_ms in range(int(second_ms[0]) // EVERY_MS * EVERY_MS, end_ms + 1, EVERY_MS):
        # A batch that does not end with the last row before the point is whole, and so is one
        # that does and is long enough.
        arrived = int(second_ms.searchsorted(point_ms))
        whole = sum(stop <= arrived and stop - start >= BATCH_ROWS for start, stop in batches)
        if whole > before:
            expected.append((point_ms, whole))
        before = whole
    expected.append((end_ms, len(batches)))
    announced = uninterrupted["live"]["announced"]
    found = [(a.front_ms, int(a.version[-8:])) for a in announced if a.reason == "published"]
    assert found == expected
    assert all(a.available_at_ms == a.front_ms + HORIZON_MS for a in announced)


def test_every_point_of_the_grid_is_announced_or_followed_by_another(
    log: Log, uninterrupted: Mapping[Mode, dict[str, Any]]
) -> None:
    for mode in MODES:
        fronts = [a.front_ms for a in uninterrupted[mode]["announced"]]
        assert fronts == sorted(set(fronts))
        assert fronts[-1] >= log.end_ms


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("seed", [1, 2])
def test_how_samples_were_read_changes_nothing(
    mode: Mode,
    seed: int,
    log: Log,
    uninterrupted: Mapping[Mode, dict[str, Any]],
    tmp_path: Path,
) -> None:
    trainer_of(training(tmp_path, mode, waiting_rows=2 * seed), log, seed).run(until_end=True)
    assert outcome(tmp_path).items() <= uninterrupted[mode].items()


# Kills.


def killing(
    monkeypatch: pytest.MonkeyPatch, owner: type, name: str, at: int, *, after: bool
) -> None:
    """Die at the ``at``-th call of a method, before or after what it does."""
    original: Callable[..., Any] = getattr(owner, name)
    calls = 0

    def wrapped(self: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == at and not after:
            raise KilledError
        found = original(self, *args, **kwargs)
        if calls == at:
            raise KilledError
        return found

    monkeypatch.setattr(owner, name, wrapped)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (Learner, "learn_scored"),
        (Publisher, "publish"),
        (Publisher, "announce"),
        (Learner, "predict"),
    ],
)
def test_a_kill_anywhere_changes_neither_weights_nor_metrics(
    mode: Mode,
    owner: type,
    name: str,
    after: bool,
    log: Log,
    uninterrupted: Mapping[Mode, dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    draw = np.random.default_rng([after, *name.encode()])
    kills = 0
    for run in range(4):
        at = 1 if name == "announce" else int(draw.integers(1, 7))
        with monkeypatch.context() as patched:
            killing(patched, owner, name, at, after=after)
            try:
                trainer_of(training(tmp_path, mode), log, run).run(until_end=True)
            except KilledError:
                kills += 1
    assert kills or (mode, name) == ("live", "predict")
    trainer_of(training(tmp_path, mode), log, 99).run(until_end=True)
    found = outcome(tmp_path)
    assert found["weights"] == uninterrupted[mode]["weights"]
    assert found["figures"] == uninterrupted[mode]["figures"]
    assert found["versions"] == uninterrupted[mode]["versions"]


@pytest.mark.parametrize("mode", MODES)
def test_the_last_batch_is_learnt_also_where_the_end_lies_on_the_grid(
    mode: Mode, log: Log, uninterrupted: Mapping[Mode, dict[str, Any]], tmp_path: Path
) -> None:
    # Every second is a point of the grid, the one of the end mark too.
    what = training(tmp_path, mode, checkpoint_every="1s")
    for _ in range(2):
        trainer_of(what, log).run(until_end=True)
        assert outcome(tmp_path)["weights"] == uninterrupted[mode]["weights"]


def test_a_trainer_that_has_ended_ends_again_and_publishes_nothing(
    log: Log, tmp_path: Path
) -> None:
    trainer_of(training(tmp_path), log).run(until_end=True)
    before = outcome(tmp_path), len(announcements(tmp_path))
    trainer_of(training(tmp_path), log).run(until_end=True)
    assert (outcome(tmp_path), len(announcements(tmp_path))) == before


# As of.


def test_as_of_scores_come_from_weights_that_knew_no_label_too_early(
    log: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known: list[int] = []
    judged: list[tuple[int, int, int]] = []
    learn, predict = Learner.learn_scored, Learner.predict

    def learning(self: Learner, rows: Rows, **given: Any) -> tuple[dict[str, float], Predictions]:
        known.extend(rows.request_ts_ms.tolist())
        return learn(self, rows, **given)

    def predicting(self: Learner, rows: Rows, **given: Any) -> Predictions:
        asked_ms = rows.request_ts_ms
        assert not known or max(known) + HORIZON_MS < asked_ms.min()
        columns = (rows.partition, rows.offset, rows.item_index)
        judged.extend(zip(*(column.tolist() for column in columns), strict=True))
        return predict(self, rows, **given)

    monkeypatch.setattr(Learner, "learn_scored", learning)
    monkeypatch.setattr(Learner, "predict", predicting)
    trainer_of(training(tmp_path, "as_of"), log).run(until_end=True)
    seen = canonical(log).seen()
    columns = (seen.partition, seen.offset, seen.item_index)
    assert judged == list(zip(*(column.tolist() for column in columns), strict=True))
    assert sorted(known) == sorted(seen.request_ts_ms.tolist())


def test_each_mode_reports_its_own_metrics_and_what_was_served(
    uninterrupted: Mapping[Mode, dict[str, Any]], log: Log
) -> None:
    live, as_of = (uninterrupted[mode]["figures"] for mode in MODES)
    assert set(live["metrics"]) == {"next", "served"}
    assert set(as_of["metrics"]) == {"as_of", "served"}
    for found in (live, as_of):
        served = found["metrics"]["served"]
        assert served["ctr"]["lifetime"]["rows"] == len(canonical(log).seen())
        assert served["ctcvr"]["lifetime"]["rows"] == 0
    assert as_of["intervals"]["ctr"]["auc"]["low"] < as_of["intervals"]["ctr"]["auc"]["high"]
    assert live["intervals"] == {}


def test_a_model_has_one_mode(log: Log, tmp_path: Path) -> None:
    trainer_of(training(tmp_path, "live"), log).run(until_end=True)
    with pytest.raises(ModeError, match=r"was learnt with mode='live', not 'as_of'"):
        trainer_of(training(tmp_path, "as_of"), log)


# Bad input.


def test_a_batch_with_a_bad_loss_is_set_aside_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    asked = random_log(3).asked[1]
    log = random_log(3, broken={1: frozenset({asked[12].offset})})
    broken_loss(monkeypatch)
    with caplog.at_level(logging.ERROR):
        trainer_of(training(tmp_path), log).run(until_end=True)
    found = outcome(tmp_path)["figures"]
    assert found["bad_batches"] == 1
    rows = canonical(log)
    assert found["batches"] == len(naive_batches(rows))
    (line,) = [r.getMessage() for r in caplog.records if "set aside" in r.getMessage()]
    bad = json.loads(line.partition(": ")[2])
    start, stop = naive_batches(rows)[bad["batch"]]
    batch = rows.slice(start, stop)
    assert bad["snapshots"] == {
        str(p): [int(batch.offset[batch.partition == p].min()),
                 int(batch.offset[batch.partition == p].max())]
        for p in np.unique(batch.partition)
    }  # fmt: skip
    first, last = bad["snapshots"]["1"]
    assert first <= asked[12].offset <= last
    assert found["metrics"]["next"]["ctr"]["lifetime"]["rows"] == len(rows.seen()) - len(
        batch.seen()
    )


def test_too_many_bad_losses_in_a_row_stop_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offsets = frozenset(one.offset for one in random_log(3).asked[1])
    log = random_log(3, broken={0: offsets, 1: offsets})
    broken_loss(monkeypatch)
    with pytest.raises(TrainingError, match=r"3 batches in a row could not be learnt.*snapshots"):
        trainer_of(training(tmp_path, max_bad_batches=2), log).run(until_end=True)


def broken_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    """Infinite features make the loss infinite, as a diverged model would."""
    from tenuto.trainer.learner import BadLossError

    original = Learner.learn_scored

    def learn(self: Learner, rows: Rows, **given: Any) -> tuple[dict[str, float], Predictions]:
        if np.isinf(rows.values).any():
            raise BadLossError("loss ctr = inf")
        return original(self, rows, **given)

    monkeypatch.setattr(Learner, "learn_scored", learn)


def test_a_column_that_samples_lack_is_counted(log: Log, tmp_path: Path) -> None:
    what = training(tmp_path)
    spec = spec_with(SMALL, **COLUMNS, item_new="h-new")
    metrics = TrainMetrics(CollectorRegistry())
    grown = Training(spec, what.settings, "m", what.samples, HORIZON_MS, LATENESS_MS)
    Trainer(grown, lambda positions: MemorySource(log, positions), metrics).run(until_end=True)
    count = metrics.missing.labels("item_new")._value.get()
    assert count == len(canonical(log))


def test_a_redefined_column_is_refused_with_its_place(log: Log, tmp_path: Path) -> None:
    what = training(tmp_path)
    spec = spec_with(SMALL, item_ctr="h-other", item_age="h-age")
    other = Training(spec, what.settings, "m", what.samples, HORIZON_MS, LATENESS_MS)
    with pytest.raises(SchemaError, match=r"samples\[\d\]@\d+: column 'item_ctr'.*'h-other'"):
        trainer_of(other, log).run(until_end=True)


def test_a_model_that_grows_by_a_column_keeps_what_it_has_learnt(log: Log, tmp_path: Path) -> None:
    what = training(tmp_path)
    first = trainer_of(what, log)
    while not CheckpointReader(str(tmp_path), "m").versions():
        first.step()
    spec = spec_with(SMALL, **COLUMNS, item_new="h-new")
    grown = Training(spec, what.settings, "m", what.samples, HORIZON_MS, LATENESS_MS)
    trainer_of(grown, log).run(until_end=True)
    found = outcome(tmp_path)["figures"]
    assert found["seen_rows"] == len(canonical(log).seen())
    assert found["metrics"]["next"]["ctr"]["lifetime"]["rows"] == found["seen_rows"]


@pytest.mark.parametrize("every", ["0s", "1500ms"])
def test_the_grid_is_of_whole_seconds(every: str, log: Log, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="checkpoint_every"):
        trainer_of(training(tmp_path, checkpoint_every=every), log)


def test_a_checkpoint_names_what_decides_its_bits(log: Log, tmp_path: Path) -> None:
    trainer_of(training(tmp_path), log).run(until_end=True)
    manifest = CheckpointReader(str(tmp_path), "m").manifest(
        CheckpointReader(str(tmp_path), "m").versions()[-1]
    )
    assert manifest.runtime == {
        "threads": 1, "deterministic": True, "torch": str(torch.__version__)
    }  # fmt: skip
    assert manifest.mode == "live"
    rows = canonical(log)
    asked_ms = rows.request_ts_ms
    assert manifest.learnt_ms == (int(asked_ms.min()), int(asked_ms.max()))
    assert manifest.rows == len(rows)
    assert set(manifest.positions) == {"0", "1"}
