"""The example serving tier over HTTP, while checkpoints change under it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ranker_files import model_checkpoint
from serving_setup import environment, set_up
from topic_records import records_of

from tenuto import local
from tenuto.features.matrix import Matrix, Stamp
from tenuto.features.schema import Column
from tenuto.local.processes import free_port
from tenuto.presets import video
from tenuto.settings import Settings
from tenuto.snapshot.record import Snapshot, decode
from tenuto.trainer.checkpoints.feed import CheckpointFeed
from tenuto.trainer.checkpoints.writer import Publisher
from tenuto.trainer.learner import Learner
from tenuto.trainer.model_settings import ModelSettings

EXAMPLE = Path(__file__).parents[2] / "examples" / "serving.py"
ITEMS = ["i0", "i1", "i2", "unseen"]
MODEL = "video"


class Service:
    """The running example."""

    def __init__(self, settings: Settings, env: dict[str, str], folder: Path) -> None:
        self.settings, self.store = settings, folder / "checkpoints"
        self._url = f"http://127.0.0.1:{(port := free_port())}"
        self._log = (folder / "log").open("wb")
        command = [sys.executable, str(EXAMPLE), "--checkpoints", str(self.store)]
        self.process = subprocess.Popen(
            [*command, "--model", MODEL, "--port", str(port)],
            env={**os.environ, **env},
            stdout=self._log,
            stderr=self._log,
        )

    def rank(self, number: int) -> dict[str, Any]:
        body = {"request_id": f"r{number}", "user_id": "u1", "query": "q1", "candidates": ITEMS}
        data = json.dumps(body).encode()
        with urllib.request.urlopen(f"{self._url}/rank", data, timeout=10) as answer:
            found: dict[str, Any] = json.load(answer)
        return found

    def refused(self, body: bytes) -> tuple[int, str]:
        """Status and reason of a request that is not to be answered."""
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(f"{self._url}/rank", body, timeout=10)
        with refused.value as answer:
            return answer.code, answer.read().decode()

    def metrics(self) -> str:
        with urllib.request.urlopen(f"{self._url}/metrics", timeout=10) as answer:
            text: str = answer.read().decode()
        return text

    def wait(self) -> None:
        deadline = time.monotonic() + 60
        while True:
            try:
                self.metrics()
                return
            except urllib.error.URLError:
                assert self.process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.1)

    def publish(self, number: int) -> str:
        """A model whose biases follow from its number."""
        learner = Learner(video.app.model_spec(ModelSettings()))
        with torch.no_grad():
            for index, (name, tensor) in enumerate(sorted(learner.serving_tensors().items())):
                if "bias" in name or "wide" in name:
                    tensor += 0.1 * number * (1 + index % 3)
        checkpoint = model_checkpoint(number, learner)
        Publisher(str(self.store), MODEL).publish(checkpoint)
        return checkpoint.version

    def snapshots(self) -> list[Snapshot]:
        records = records_of(self.settings.kafka.bootstrap, f"{self.settings.namespace}.snapshots")
        return [decode(record.value) for record in records]

    def stop(self) -> None:
        self.process.terminate()
        assert self.process.wait(20) == 0
        self._log.close()


@pytest.fixture
def service(embedded: local.LocalStack, redis_url: str, tmp_path: Path) -> Iterator[Service]:
    env = environment(embedded)
    now_ms = time.time_ns() // 1_000_000
    running = Service(set_up(env, now_ms), env, tmp_path)
    try:
        running.wait()
        yield running
    finally:
        running.process.kill()


def matrix_of(snapshot: Snapshot) -> Matrix:
    return Matrix(
        snapshot.items,
        tuple(Column(name, digest) for name, digest in snapshot.columns),
        snapshot.matrix,
        snapshot.state_matrix,
        snapshot.as_of,
        Stamp((), np.zeros((0, 0))),
        snapshot.layout,
        {},
        snapshot.user_id,
        snapshot.query,
    )


def test_it_answers_before_there_is_a_checkpoint(service: Service) -> None:
    answer = service.rank(0)
    assert answer["policy"] == "smoothed_ctr"
    assert answer["model"] == ""
    assert sorted(answer["items"]) == sorted(ITEMS)


def test_what_is_no_request_is_refused_with_a_reason(service: Service) -> None:
    good = {"user_id": "u1", "candidates": ITEMS}
    bad: list[tuple[Any, str]] = [
        ([], "object"),
        ({"candidates": ITEMS}, "user_id"),
        ({"user_id": "u1"}, "candidates"),
        (good | {"user_id": ""}, "user_id"),
        (good | {"user_id": 7}, "user_id"),
        (good | {"user_id": "u" * 1_000}, "user_id"),
        (good | {"candidates": []}, "candidates"),
        (good | {"candidates": ["a", ""]}, "candidates"),
        (good | {"candidates": "abc"}, "candidates"),
        (good | {"n": 0}, "n"),
        (good | {"n": -1}, "n"),
        (good | {"n": "3"}, "n"),
        (good | {"request_id": 7}, "request_id"),
        (good | {"query": None}, "query"),
        (good | {"context": {"no such": 1}}, "no such"),
        (good | {"context": {"device": {}}}, "context"),
        (good | {"context": [1]}, "context"),
    ]
    for body, reason in bad:
        code, text = service.refused(json.dumps(body).encode())
        assert (code, reason in text) == (400, True), (body, code, text)
    for data in (b"", b"{", b"\xff", b'{"user_id": "\\ud800", "candidates": ["a"]}'):
        code, text = service.refused(data)
        assert code == 400, (data, text)
    assert sorted(service.rank(1)["items"]) == sorted(ITEMS)


def test_every_answer_is_of_one_checkpoint_while_they_change_under_it(service: Service) -> None:
    answers: list[dict[str, Any]] = []
    done = threading.Event()

    def ask() -> None:
        while not done.is_set():
            answers.append(service.rank(len(answers)))

    asking = threading.Thread(target=ask)
    asking.start()
    versions = []
    for number in range(1, 4):
        versions.append(service.publish(number))
        deadline = time.monotonic() + 60
        while not answers or answers[-1]["model"] != versions[-1]:
            assert asking.is_alive()
            assert time.monotonic() < deadline
            time.sleep(0.05)
    done.set()
    asking.join()
    metrics = service.metrics()
    service.stop()

    # On a busy machine a read may miss its deadline: such a request is answered, not captured.
    answers = [answer for answer in answers if answer["policy"] != "as_retrieved"]
    seen = [answer["model"] for answer in answers]
    in_order = ["", *versions]
    assert [in_order.index(model) for model in seen] == sorted(map(in_order.index, seen))
    with CheckpointFeed(str(service.store), model=MODEL, follow=False) as feed:
        rankers = {version: feed.load(version) for version in versions}
    taken = {snapshot.request_id: snapshot for snapshot in service.snapshots()}
    assert sorted(taken) == sorted(answer["request_id"] for answer in answers)
    for answer in answers:
        snapshot = taken[answer["request_id"]]
        assert (snapshot.items, snapshot.model) == (answer["items"], answer["model"])
        if not snapshot.model:
            continue
        expected = rankers[snapshot.model].score(matrix_of(snapshot))
        for name in ("ctr", "cvr", "ctcvr"):
            served = np.frombuffer(snapshot.scores[name], "<f4")
            np.testing.assert_allclose(served, expected[name], rtol=1e-5)
        assert (np.diff(np.frombuffer(snapshot.scores["ctcvr"], "<f4")) <= 0).all()

    assert f'ranker_checkpoint_info{{version="{versions[-1]}"}} 1.0' in metrics
    assert 'ranker_request_seconds_count{policy="mmoe"}' in metrics
    assert "tenuto_read_seconds" in metrics
