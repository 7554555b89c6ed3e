"""Settings: one ``tenuto.toml``, overridden by the environment, overridden by flags.

Every value knows where it came from, so that ``tenuto config`` can say it and an error can name
the place to mend.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec

from tenuto.features.connection import RedisConnection, without_password
from tenuto.features.durations import duration_ms
from tenuto.features.rules import TimeRules
from tenuto.streams.connection import KafkaConnection
from tenuto.trainer.model_settings import ModelSettings
from tenuto.trainer.train_settings import TrainSettings

FILE_NAME = "tenuto.toml"
ENV_PREFIX = "TENUTO_"
_SECRETS = {"sasl_password", "password"}
# A topic's name has at most 249 characters of these.
_NAMESPACE = r"^([A-Za-z0-9_-][A-Za-z0-9._-]{0,99})?$"
# Flags that are not called like their setting.
_FLAGS = {"redis.url": "--redis", "stack.kind": "--stack"}

Count = Annotated[int, msgspec.Meta(ge=1)]
Port = Annotated[int, msgspec.Meta(ge=0, le=65_535)]
Seconds = Annotated[float, msgspec.Meta(gt=0.0, le=86_400.0)]
Share = Annotated[float, msgspec.Meta(gt=0.0, le=1.0)]


class SettingsError(ValueError):
    """A setting that cannot be used: one line that names it, its origin, and what is right."""


class _Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class KafkaSettings(KafkaConnection, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[kafka]``: how to reach it, and what topics are created with."""

    partitions: Count = 24
    replication_factor: int = -1
    retention: str = "8d"


class TimeSettings(_Section, frozen=True, kw_only=True):
    """``[time]``: what counts. The same for every process, for they decide data."""

    future: str = "5s"
    lateness: str = "5m"
    snapshot_lateness: str = "1m"
    slack: str = "30s"

    def rules(self) -> TimeRules:
        return TimeRules(
            duration_ms(self.future),
            duration_ms(self.lateness),
            duration_ms(self.snapshot_lateness),
            duration_ms(self.slack),
        )


class LimitSettings(_Section, frozen=True, kw_only=True):
    """``[limits]``: largest records, in bytes."""

    event_bytes: Count = 65_536
    snapshot_bytes: Count = 1_048_576


class WorkerSettings(_Section, frozen=True, kw_only=True):
    """``[workers]``: of the long-lived processes.

    ``instance`` is a name that a worker keeps over restarts and shares with no other, such as its
    pod's: one that is killed and started again then takes its partitions back at once.
    ``join_memory_mb`` is what may wait in a joiner, which ends with an error rather than go beyond.
    """

    instance: str = ""

    metrics_host: str = "127.0.0.1"
    metrics_port: Port = 0
    max_poll_records: Count = 20_000
    session_timeout_s: Seconds = 10.0
    rebalance_timeout_s: Seconds = 30.0
    join_memory_mb: Count = 4_096
    live: bool = True


class SinkSettings(_Section, frozen=True, kw_only=True):
    """``[sink]``: the Parquet files."""

    dir: str = "samples"
    snapshots_per_file: Count = 100_000


class CaptureSettings(_Section, frozen=True, kw_only=True):
    """``[capture]``: of a serving tier; snapshots that may wait for Kafka, and their bytes."""

    sample_rate: Share = 1.0
    buffer: Count = 10_000
    buffer_mb: Count = 64


class StackSettings(_Section, frozen=True, kw_only=True):
    """``[stack]``: of ``tenuto up``, ``demo``, ``simulate`` and ``replay``."""

    kind: str = "embedded"
    kafka_home: str = ""
    data_dir: str = ""


class Settings(_Section, frozen=True, kw_only=True):
    """Everything that can be set; the defaults suit a laptop."""

    app: str = "tenuto.presets.video:app"
    namespace: Annotated[str, msgspec.Meta(pattern=_NAMESPACE)] = ""
    kafka: KafkaSettings = KafkaSettings()
    redis: RedisConnection = RedisConnection()
    time: TimeSettings = TimeSettings()
    limits: LimitSettings = LimitSettings()
    workers: WorkerSettings = WorkerSettings()
    sink: SinkSettings = SinkSettings()
    capture: CaptureSettings = CaptureSettings()
    model: ModelSettings = ModelSettings()
    trainer: TrainSettings = TrainSettings()
    stack: StackSettings = StackSettings()


@dataclass(frozen=True, slots=True)
class Value:
    """One setting as it is: dotted key, value (secrets hidden), and where it came from."""

    key: str
    value: Any
    origin: str


@dataclass(frozen=True)
class Loaded:
    """Settings and the origin of each."""

    settings: Settings
    origins: Mapping[str, str]

    def values(self) -> list[Value]:
        """Every setting, secrets hidden, for ``tenuto config``."""
        flat = _flatten(msgspec.to_builtins(self.settings))
        return [Value(k, _shown(k, v), self.origins.get(k, "default")) for k, v in flat]


def load(
    file: Path | None = None,
    env: Mapping[str, str] | None = None,
    flags: Mapping[str, Any] | None = None,
) -> Loaded:
    """Read settings from their sources, each overriding the one before it.

    Args:
        file: the TOML file; ``tenuto.toml`` in the working directory where there is one.
        env: the process's environment by default; ``TENUTO_KAFKA__BOOTSTRAP`` is kafka.bootstrap.
        flags: dotted keys from the command line; ``None`` values are not given.

    Raises:
        SettingsError: an unknown key, or a value that is not as it must be.
    """
    merged: dict[str, Any] = {}
    origins: dict[str, str] = {}
    if file is None and Path(FILE_NAME).exists():
        file = Path(FILE_NAME)
    if file is not None:
        for key, value in _flatten(_read(file)):
            _put(merged, origins, key, value, str(file))
    for name, text in sorted((os.environ if env is None else env).items()):
        if name.startswith(ENV_PREFIX):
            key = name.removeprefix(ENV_PREFIX).lower().replace("__", ".")
            _put(merged, origins, key, text, f"${name}")
    for key, value in (flags or {}).items():
        if value is not None:
            flag = _FLAGS.get(key) or "--" + key.rpartition(".")[2].replace("_", "-")
            _put(merged, origins, key, value, flag)
    try:
        settings = msgspec.convert(merged, Settings, strict=False)
    except msgspec.ValidationError as error:
        raise _explain(error, merged, origins) from error
    return Loaded(_checked(settings, origins), origins)


def environment(settings: Settings) -> dict[str, str]:
    """The variables that give a child process these settings, whatever its ``tenuto.toml`` says."""
    return {
        ENV_PREFIX + key.upper().replace(".", "__"): str(value)
        for key, value in _flatten(msgspec.to_builtins(settings))
    }


def _read(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"{file}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        # A number of thousands of digits is no TOMLDecodeError, nor is what is nested too deep.
        raise SettingsError(f"{file}: not TOML: {error}") from error


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _put(
    merged: dict[str, Any], origins: dict[str, str], key: str, value: Any, origin: str
) -> None:
    section, _, name = key.rpartition(".")
    known = _keys()
    if key not in known:
        near = ", ".join(k for k in known if k.rpartition(".")[0] == section) or ", ".join(known)
        raise SettingsError(f"{key} ({origin}): no such setting: there are {near}")
    target = merged.setdefault(section, {}) if section else merged
    target[name] = value
    origins[key] = origin


def _keys() -> list[str]:
    return [key for key, _ in _flatten(msgspec.to_builtins(Settings()))]


def _explain(
    error: msgspec.ValidationError, merged: Mapping[str, Any], origins: Mapping[str, str]
) -> SettingsError:
    text, _, path = str(error).partition(" - at `$.")
    key = path.rstrip("`")
    value = _shown(key, dict(_flatten(merged)).get(key))
    rule = text[:1].lower() + text[1:]
    if key == "namespace":
        rule = "must be at most 100 letters, digits, '.', '_' and '-', and not begin with '.'"
    return SettingsError(f"{key} ({origins.get(key, 'default')}): {value!r}: {rule}")


def _checked(settings: Settings, origins: Mapping[str, str]) -> Settings:
    def refuse(key: str, rule: str) -> SettingsError:
        value = dict(_flatten(msgspec.to_builtins(settings)))[key]
        value = _shown(key, value)
        return SettingsError(f"{key} ({origins.get(key, 'default')}): {value!r}: {rule}")

    for key in ("future", "lateness", "snapshot_lateness", "slack"):
        try:
            duration_ms(getattr(settings.time, key))
        except ValueError as error:
            raise refuse(f"time.{key}", "write for example '10s' or '5m'") from error
    try:
        duration_ms(settings.kafka.retention)
    except ValueError as error:
        raise refuse("kafka.retention", "write for example '7d'") from error
    try:
        duration_ms(settings.trainer.checkpoint_every)
    except ValueError as error:
        raise refuse("trainer.checkpoint_every", "write for example '10m'") from error
    for field, rule in settings.kafka.faults():
        raise refuse(f"kafka.{field}", rule)
    for field, rule in settings.redis.faults():
        raise refuse(f"redis.{field}", rule)
    if settings.stack.kind not in ("embedded", "kafka"):
        raise refuse("stack.kind", "must be embedded or kafka")
    module, _, attribute = settings.app.partition(":")
    if not (module and attribute):
        raise refuse("app", "must be module:object, for example myapp.ranking:app")
    return settings


def _shown(key: str, value: Any) -> Any:
    if key.rpartition(".")[2] in _SECRETS:
        return "***" if value else ""
    return without_password(str(value)) if "://" in str(value) else value
