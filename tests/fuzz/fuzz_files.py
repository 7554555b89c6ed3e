"""Files that people bring: interaction logs, mappings of them, and settings."""

from __future__ import annotations

import gzip
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from fuzz_mutations import TEXTS, any_value, mutated_bytes
from fuzz_samples import ODD_TYPES
from fuzz_target import ACCEPTED, Decoder, FindingError, Outcome, refused

from tenuto.drive.interactions import read_log
from tenuto.drive.mapping import InteractionLogError, read_map
from tenuto.features.durations import duration_ms
from tenuto.features.feature import Context
from tenuto.presets.video_events import events
from tenuto.settings import SettingsError, load

NAMES = [
    "request_id", "user_id", "query", "item_id", "position", "request_ts_ms", "impression_ts_ms",
    "click_ts_ms", "play_ts_ms", "play_ms", "duration_ms", "like_ts_ms", "recall",
]  # fmt: skip
CONTEXT = [Context("recall", "item", float)]
CELLS = [
    b"", b"-1", b"0", b"1650000000000", b"99999999999999999999", b"1e3", b"1e999", b"NaN", b"inf",
    b"0x1f", b"\xff\xfe", b"\xed\xa0\x80", b"a\0b", "٣".encode(), b"x" * 300, b"2024-01-01", b" 7 ",
    b"007", b"+5", b"-0", b"1.5", b"true", "\u202eabc".encode(),
]  # fmt: skip


def _row(n: int) -> list[bytes]:
    at = 1_650_000_000_000 + n
    cells = [f"r{n}", f"u{n}", "q", f"i{n}", 0, at, at + 1, at + 2, at + 3, 40, 90, "", 0.5]
    return [str(cell).encode() for cell in cells]


def interaction_logs(folder: Path) -> Decoder:
    """``tenuto/drive``: CSV, TSV, gzip and Parquet, rows of which the bad ones are skipped."""

    def make(rng: Random) -> Any:
        kind = rng.choice(["log.csv", "log.tsv", "log.csv.gz", "log.parquet"])
        if kind == "log.parquet":
            return [kind, _parquet_log(rng), False]
        cut = b"\t" if kind == "log.tsv" else b","
        rows = [_row(n) for n in range(rng.randint(2, 12))]
        for row in rows[1:]:
            for _ in range(rng.choice([0, 1, 2])):
                row[rng.randrange(len(row))] = rng.choice(CELLS)
        header = [name.encode() for name in NAMES]
        whole = rng.random() < 0.6
        if not whole and rng.random() < 0.4:
            header[rng.randrange(len(header))] = rng.choice(TEXTS)[:300].encode()
        data = b"\n".join(cut.join(row) for row in [header, *rows]) + b"\n"
        if not whole:
            data = mutated_bytes(rng, data)
        if kind.endswith(".gz"):
            data = gzip.compress(data, 1, mtime=0)
            if not whole and rng.random() < 0.3:
                data = mutated_bytes(rng, data)
        return [kind, data, whole]

    def take(value: Any) -> Outcome:
        kind, data, whole = value
        path = folder / kind
        path.write_bytes(data)
        try:
            log = read_log(
                path, events, context=["recall"], declared_context=CONTEXT, on_error="skip"
            )
        except InteractionLogError as error:
            if whole and "no row" not in str(error):
                raise FindingError(f"a log with a good row was refused: {error}") from error
            return refused(error)
        if whole and not log.requests:
            raise FindingError("a good row was lost")
        return ACCEPTED

    return Decoder(make, take)


def _parquet_log(rng: Random) -> bytes:
    columns: dict[str, Any] = {}
    for at, name in enumerate(NAMES):
        cells = [_row(n)[at].decode() for n in range(4)]
        whole = all(cell.isdigit() for cell in cells)
        columns[name] = pa.array([int(cell) for cell in cells] if whole else cells)
    for _ in range(rng.choice([0, 1, 2])):
        name = rng.choice(NAMES)
        kind = rng.choice(ODD_TYPES)
        columns[name] = pa.nulls(4, kind)
        if rng.random() < 0.5 and kind == pa.binary():
            columns[name] = pa.array([b"\xff", b"", b"a\0", None])
        if kind == pa.list_(pa.int64()):
            columns[name] = pa.array([[1], [], None, [2**60]])
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink)
    data = bytes(sink.getvalue())
    return mutated_bytes(rng, data) if rng.random() < 0.6 else data


TOML = [
    'app = "x:y"', 'namespace = "n"', "[kafka]", 'bootstrap = "h:1"', "partitions = 3", "[redis]",
    'url = "redis://u:p@h:1/0"', "[time]", 'lateness = "5m"', "[workers]", "metrics_port = 1",
    "session_timeout_s = 2.5", "live = true", "[trainer]", 'store = "s3://k:s@b/x"', "[model]",
    "seed = 3", "[columns]", 'user_id = "uid"', 'request_ts_ms = { from = "t", unit = "s" }',
]  # fmt: skip
TOML_VALUES = [
    "[" * 3_000, "{a=" * 3_000, "9" * 5_000, "-" + "9" * 30, "nan", "inf", "-inf", "1e400", '""',
    "[]", "{}", "2024-13-01", "1979-05-27T07:32:00Z", "0x" + "f" * 40, '"\\ud800"', '"\\u0000"',
    "'''x", '"h:99999"', '"redis://[::1"', '"redis://a:b@c:d/e"', '"//[x"', "1.5", "true",
    '"9999999999999999999999d"', '"1e9d"', '"²s"', '"s3://a:b@[c"', '"."', '"a:b:c"', '":"',
]  # fmt: skip
ENV = [
    "TENUTO_KAFKA__PARTITIONS", "TENUTO_REDIS__URL", "TENUTO_TIME__SLACK", "TENUTO_", "TENUTO___",
    "TENUTO_KAFKA", "TENUTO_WORKERS__SESSION_TIMEOUT_S", "TENUTO_MODEL__SEED", "TENUTO_NAMESPACE",
    "TENUTO_KAFKA__SSL_CAFILE", "TENUTO_KAFKA__BOOTSTRAP", "TENUTO_TRAINER__STORE",
    "TENUTO_REDIS__SSL_CA_CERTS", "TENUTO_KAFKA__SECURITY_PROTOCOL", "TENUTO_STACK__KIND",
    "TENUTO_TRAINER__CHECKPOINT_EVERY", "TENUTO_KAFKA__RETENTION", "TENUTO_CAPTURE__SAMPLE_RATE",
]  # fmt: skip


def settings(folder: Path) -> Decoder:
    """``tenuto/settings.py`` (file and environment) and mappings of interaction logs: TOML."""

    def make(rng: Random) -> Any:
        lines = list(TOML)
        for _ in range(rng.randint(1, 3)):
            at = rng.randrange(len(lines))
            name, equals, _ = lines[at].partition(" = ")
            match rng.randrange(4):
                case 0:
                    del lines[at]
                case 1:
                    lines.insert(at, rng.choice(lines))
                case _:
                    lines[at] = f"{name} = {rng.choice(TOML_VALUES)}" if equals else "[" + name
        if rng.random() < 0.6:
            lines = [line for line in lines if "columns" not in line and "uid" not in line]
            lines = [line for line in lines if "request_ts_ms" not in line]
        data = "\n".join(lines).encode()
        if rng.random() < 0.3:
            data = mutated_bytes(rng, data)
        env = {}
        if rng.random() < 0.6:
            word = rng.choice(TOML_VALUES).strip('"')
            env[rng.choice(ENV)] = word if rng.random() < 0.6 else str(any_value(rng))[:9_000]
        return [data, env]

    def take(value: Any) -> Outcome:
        data, env = value
        path = folder / "tenuto.toml"
        path.write_bytes(data)
        outcome = ACCEPTED
        try:
            read_map(path)
        except InteractionLogError as error:
            outcome = refused(error)
        for file in (path, None):
            try:
                loaded = load(file, env)
            except SettingsError as error:
                outcome = refused(error) + outcome
                continue
            loaded.values()
            for name in ("future", "lateness", "snapshot_lateness", "slack"):
                duration_ms(getattr(loaded.settings.time, name))
            outcome = outcome + ACCEPTED
        return outcome

    return Decoder(make, take)
