"""``tenuto audit`` as it is typed: what it prints, and how it exits."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from recorded_run import PARTITIONS, Recorded, change_rows, set_value

from tenuto import local
from tenuto.snapshot.audit.recording import write_recording


def audit(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    before = [argument for argument in arguments if argument.startswith("--bootstrap=")]
    after = [argument for argument in arguments if argument not in before]
    return subprocess.run(
        [sys.executable, "-m", "tenuto", *before, "audit", *after],
        env=os.environ | env, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def test_a_healthy_recording_is_clean_with_exit_code_0(recorded: Recorded, tmp_path: Path) -> None:
    log = str(recorded.files.parent / "log")
    report = tmp_path / "report.json"
    done = audit("--log", log, "--samples", str(recorded.files), "--strict", "--json", str(report))
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("120 snapshots audited: clean\n")
    told = json.loads(report.read_text())
    assert told["clean"]
    assert told["snapshots"] == 120
    assert told["checks"]["files"]["equal"] == told["checks"]["rows"]["equal"] > 200


def test_a_fault_is_named_with_exit_code_1(recorded: Recorded, tmp_path: Path) -> None:
    broken = change_rows(recorded.log, 0, 0, lambda table: set_value(table, 0, clicked=7))
    write_recording(broken, tmp_path / "log")
    done = audit("--log", str(tmp_path / "log"), "--json", str(tmp_path / "report.json"))
    assert done.returncode == 1
    assert "mismatching: labels: snapshots[0]@" in done.stdout
    assert "120 snapshots audited: not clean: 1 mismatching, 0 missing" in done.stdout
    told = json.loads((tmp_path / "report.json").read_text())
    assert (told["clean"], told["mismatching"], len(told["findings"])) == (False, 1, 1)


def test_a_log_without_snapshots_proves_nothing_and_says_so(
    recorded: Recorded, tmp_path: Path
) -> None:
    topics = {
        name: replace(
            topic, partitions=[replace(p, start=0, end=0, records=[]) for p in topic.partitions]
        )
        for name, topic in recorded.log.topics.items()
    }
    write_recording(replace(recorded.log, topics=topics), tmp_path / "log")
    done = audit("--log", str(tmp_path / "log"))
    assert done.returncode == 2
    assert "0 snapshots to compare: nothing to audit" in done.stderr


def test_wrong_inputs_exit_with_2_and_no_server_with_3(recorded: Recorded, tmp_path: Path) -> None:
    log = str(recorded.files.parent / "log")
    other = audit("--log", log, TENUTO_APP="tests_of_audit_none:app")
    assert other.returncode == 2
    nowhere = audit("--log", str(tmp_path / "none"))
    assert (nowhere.returncode, "not a recorded log" in nowhere.stderr) == (2, True)
    folder = audit("--log", log, "--samples", "buy=/nowhere")
    assert (folder.returncode, "buy" in folder.stderr) == (2, True)
    assert audit("--bootstrap=127.0.0.1:1").returncode == 3


def test_a_broker_is_audited_and_its_log_kept(
    recorded: Recorded, embedded: local.LocalStack, tmp_path: Path
) -> None:
    env = {
        "TENUTO_NAMESPACE": recorded.settings.namespace,
        "TENUTO_KAFKA__PARTITIONS": str(PARTITIONS),
    }
    broker = f"--bootstrap={embedded.bootstrap}"
    kept = str(tmp_path / "log")
    done = audit(broker, "--record", kept, "--share", "0.5", **env)
    assert done.returncode == 0, done.stdout + done.stderr
    assert audit("--log", kept).stdout.endswith("120 snapshots audited: clean\n")
    again = audit(broker, "--record", kept, **env)
    assert (again.returncode, "choose an empty directory" in again.stderr) == (2, True)
    wrong = audit(broker, **(env | {"TENUTO_KAFKA__PARTITIONS": "3"}))
    assert (wrong.returncode, "kafka.partitions" in wrong.stderr) == (2, True)
    absent = audit(broker, **(env | {"TENUTO_NAMESPACE": "nobody"}))
    assert (absent.returncode, "does not exist" in absent.stderr) == (2, True)


def test_a_replay_audits_itself_redis_included_and_keeps_its_log(tmp_path: Path) -> None:
    rows = [f"r{n},u{n % 3},q,i{n % 4},0,{1_700_000_000_000 + n * 5_000}\n" for n in range(20)]
    header = "request_id,user_id,query,item_id,position,request_ts_ms\n"
    (tmp_path / "log.csv").write_text(header + "".join(rows))
    command = ["replay", "log.csv", "--out", "samples", "--audit", "--record", "log"]
    done = subprocess.run(
        [sys.executable, "-m", "tenuto", *command],
        cwd=tmp_path, capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "20 snapshots audited: clean" in done.stderr
    told = json.loads(done.stdout)["audit"]
    assert told["checks"]["files"]["equal"] == 20
    assert told["checks"]["progress"]["equal"] > 0
    assert audit("--log", str(tmp_path / "log")).returncode == 0
    again = subprocess.run(
        [sys.executable, "-m", "tenuto", *command, "--out", "others"],
        cwd=tmp_path, capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert (again.returncode, "--record log: there is something already" in again.stderr) == (
        2,
        True,
    )
