"""The commands that run everything, as a user types them."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

HEADER = "request_id,user_id,query,item_id,position,request_ts_ms,impression_ts_ms,click_ts_ms\n"
ROWS = [f"r{n},u{n % 3},q,i{n % 4},0,{1_700_000_000_000 + n * 5_000},,\n" for n in range(20)]


def tenuto(*arguments: str, cwd: Path, timeout: float = 200) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tenuto", *arguments],
        cwd=cwd, capture_output=True, text=True, timeout=timeout, check=False,
    )  # fmt: skip


def files(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*.parquet"))
    }


def test_the_demo_loses_and_doubles_nothing_when_its_workers_are_killed(tmp_path: Path) -> None:
    run = tenuto("demo", "--minutes", "0.2", "--json", "demo.json", "--no-keep", cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    figures = json.loads((tmp_path / "demo.json").read_text())
    assert figures["restarts"]["features"] == 1
    assert figures["features_pause_ms"] > 0
    assert figures["restarts"]["trainer"] == 1
    assert figures["trained_rows"] == figures["samples"]
    assert figures["checkpoints"] >= 1
    assert 0.0 < figures["ne_ctr"] < 1.5
    assert figures["n_ranker"] > figures["n_random"] > 0
    assert figures["samples"] == figures["rows"] > 1_000
    for name in ("rows_lost", "rows_doubled", "events_lost", "events_doubled", "dead_letters"):
        assert figures[name] == 0, name
    assert figures["events"] > figures["snapshots"] > 100
    assert figures["freshness_p50_ms"] <= figures["freshness_p99_ms"]
    polars, inspect, audit, replay = run.stdout.partition("to paste:\n")[2].splitlines()[:4]
    assert "inspect request r" in inspect
    assert figures["audit"]["clean"]
    assert figures["audit"]["snapshots"] == figures["snapshots"]
    assert "replay" in replay
    pasted = subprocess.run(
        polars, shell=True, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert pasted.returncode == 0, pasted.stderr
    assert "ranker" in pasted.stdout
    again = subprocess.run(
        audit, shell=True, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert again.returncode == 0, again.stdout + again.stderr
    assert f"{figures['snapshots']:,} snapshots audited: clean" in again.stdout


def test_an_interrupt_stops_the_demo_and_its_children(tmp_path: Path) -> None:
    demo = subprocess.Popen(
        [sys.executable, "-m", "tenuto", "demo", "--no-keep"],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    assert demo.stdout is not None
    for line in demo.stdout:
        if line.startswith("event time"):
            break
    children = _children(demo.pid)
    assert len(children) >= 6
    demo.send_signal(signal.SIGINT)
    assert demo.wait(60) == 0
    assert "Traceback" not in demo.stdout.read()
    deadline = time.monotonic() + 20
    while any(map(_is_alive, children)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not [pid for pid in children if _is_alive(pid)]


def test_the_same_seed_gives_the_same_files(tmp_path: Path) -> None:
    found = []
    for name in ("one", "two"):
        arguments = ["simulate", "--hours", "0.05", "--preroll-requests-per-s", "0.002"]
        run = tenuto(*arguments, "--seed", "3", "--out", name, cwd=tmp_path)
        assert run.returncode == 0, run.stderr
        found.append(files(tmp_path / name))
    assert found[0] == found[1]
    assert found[0]


def test_a_bad_row_is_named_or_skipped_and_counted(tmp_path: Path) -> None:
    rows = [*ROWS]
    rows[4] = rows[4].replace(",0,", ",minus one,")
    (tmp_path / "log.csv").write_text(HEADER + "".join(rows))
    run = tenuto("replay", "log.csv", cwd=tmp_path)
    assert run.returncode == 2
    assert run.stderr.count("\n") == 1
    for part in ("log.csv row 6", "position", "minus one"):
        assert part in run.stderr
    run = tenuto(
        "replay", "log.csv", "--on-error", "skip", "--out", "out", "--json", "f.json", cwd=tmp_path
    )
    assert run.returncode == 0, run.stderr
    figures = json.loads((tmp_path / "f.json").read_text())
    assert sum(figures["skipped_rows"].values()) == 1
    assert figures["rows"] == len(ROWS) - 1


def test_samples_are_never_mixed_with_those_of_another_run(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text(HEADER + "".join(ROWS))
    (tmp_path / "out" / "_manifests" / "p0").mkdir(parents=True)
    run = tenuto("replay", "log.csv", "--out", "out", cwd=tmp_path)
    assert run.returncode == 2
    assert "choose an empty directory" in run.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["replay", "nothing.csv"], 2, "nothing.csv"),
        (["replay", "log.csv", "--freshness", "soon"], 2, "'soon' is not a duration"),
        (["replay", "log.csv", "--stack", "kafka", "--kafka-home", "/nowhere"], 2, "/nowhere"),
        (["replay", "log.csv", "--stack", "existing"], 3, "127.0.0.1:9"),
        (["--app", "tenuto.presets.video:nothing", "demo"], 2, "tenuto.presets.video.nothing"),
    ],
)
def test_what_cannot_run_says_why_in_one_line(
    tmp_path: Path, arguments: list[str], code: int, words: str
) -> None:
    (tmp_path / "log.csv").write_text(HEADER + "".join(ROWS))
    (tmp_path / "tenuto.toml").write_text('[kafka]\nbootstrap = "127.0.0.1:9"\n')
    run = tenuto(*arguments, cwd=tmp_path)
    assert run.returncode == code, run.stderr
    assert words in run.stderr
    assert run.stderr.count("\n") == 1, run.stderr


def _children(pid: int) -> list[int]:
    """Descendants of a process, by /proc."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = entry.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parents.setdefault(int(fields[1]), []).append(int(entry.parent.name))
    found, open_ = [], [pid]
    while open_:
        below = parents.get(open_.pop(), [])
        found += below
        open_ += below
    return found


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # A zombie is dead already.
    return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
