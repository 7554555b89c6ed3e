"""Settings of topics: Kafka's names, defaults and checks, and the few that this broker acts on.

All of Kafka's are taken and told, so that tools and checks see what they set. Acted on are those
in ``Effective``; without segments, disks, replicas and a cleaner the others have no effect, and
compaction is none: a compacted topic keeps every record.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum

from tenuto.local.broker.errors import Code, RefusedError

_INT = 2**31 - 1
_LONG = 2**63 - 1


class Type(IntEnum):
    """Types of settings, by their numbers in DescribeConfigs."""

    BOOLEAN = 1
    STRING = 2
    INT = 3
    LONG = 5
    DOUBLE = 6
    LIST = 7


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting.

    Attributes:
        least, most: bounds of a number.
        among: what a string, or each item of a list, may be; anything if empty.
    """

    default: str
    type: Type
    least: float = 0
    most: float = _LONG
    among: tuple[str, ...] = ()

    def check(self, name: str, value: str) -> None:
        """Raises:
        RefusedError: ``value`` is none of this setting.
        """
        if self.type in (Type.INT, Type.LONG, Type.DOUBLE):
            try:
                number = float(value) if self.type is Type.DOUBLE else int(value)
            except ValueError:
                raise _invalid(name, value, f"Not a number of type {self.type.name}") from None
            if not self.least <= number <= self.most:
                raise _invalid(name, value, f"Must be from {self.least} to {self.most}")
        elif self.type is Type.BOOLEAN and value.lower() not in ("true", "false"):
            raise _invalid(name, value, "Must be true or false")
        elif self.among:
            for item in items(value) if self.type is Type.LIST else [value]:
                if item not in self.among:
                    raise _invalid(name, value, f"Must be among {', '.join(self.among)}")


def _invalid(name: str, value: str, why: str) -> RefusedError:
    return RefusedError(Code.INVALID_CONFIG, f"Invalid value {value} for {name}: {why}")


def _ms(default: int, least: int = 0) -> Setting:
    return Setting(str(default), Type.LONG, least)


def _bytes(default: int, least: int = 0, type: Type = Type.INT) -> Setting:
    return Setting(str(default), type, least, _INT if type is Type.INT else _LONG)


SETTINGS: Mapping[str, Setting] = {
    "cleanup.policy": Setting("delete", Type.LIST, among=("delete", "compact")),
    "compression.gzip.level": Setting("-1", Type.INT, -1, 9),
    "compression.lz4.level": Setting("9", Type.INT, 1, 17),
    "compression.type": Setting(
        "producer",
        Type.STRING,
        among=("producer", "uncompressed", "gzip", "snappy", "lz4", "zstd"),
    ),
    "compression.zstd.level": Setting("3", Type.INT, -131_072, 22),
    "delete.retention.ms": _ms(86_400_000),
    "file.delete.delay.ms": _ms(60_000),
    "flush.messages": Setting(str(_LONG), Type.LONG, 1),
    "flush.ms": _ms(_LONG),
    "follower.replication.throttled.replicas": Setting("", Type.LIST),
    "index.interval.bytes": _bytes(4096),
    "leader.replication.throttled.replicas": Setting("", Type.LIST),
    "local.retention.bytes": _bytes(-2, -2, Type.LONG),
    "local.retention.ms": _ms(-2, -2),
    "max.compaction.lag.ms": _ms(_LONG, 1),
    "max.message.bytes": _bytes(1_048_588),
    "message.timestamp.after.max.ms": _ms(3_600_000),
    "message.timestamp.before.max.ms": _ms(_LONG),
    "message.timestamp.type": Setting(
        "CreateTime", Type.STRING, among=("CreateTime", "LogAppendTime")
    ),
    "min.cleanable.dirty.ratio": Setting("0.5", Type.DOUBLE, 0, 1),
    "min.compaction.lag.ms": _ms(0),
    "min.insync.replicas": Setting("1", Type.INT, 1, _INT),
    "preallocate": Setting("false", Type.BOOLEAN),
    "remote.log.copy.disable": Setting("false", Type.BOOLEAN),
    "remote.log.delete.on.disable": Setting("false", Type.BOOLEAN),
    "remote.storage.enable": Setting("false", Type.BOOLEAN),
    "retention.bytes": _bytes(-1, -1, Type.LONG),
    # Kafka's own default is a week; a demo of an old log would be gone at once.
    "retention.ms": _ms(-1, -1),
    "segment.bytes": _bytes(1 << 30, 1_048_576),
    "segment.index.bytes": _bytes(10_485_760, 4),
    "segment.jitter.ms": _ms(0),
    "segment.ms": _ms(604_800_000, 1),
    "unclean.leader.election.enable": Setting("false", Type.BOOLEAN),
}


def items(value: str) -> list[str]:
    """The items of a list setting."""
    return [item.strip() for item in value.split(",") if item.strip()]


def check(settings: Mapping[str, str | None]) -> dict[str, str]:
    """The settings, if each is one of a topic's.

    Raises:
        RefusedError: with the first that is not.
    """
    for name, value in settings.items():
        setting = SETTINGS.get(name)
        if setting is None:
            raise RefusedError(Code.INVALID_CONFIG, f"Unknown topic config name: {name}")
        if value is None:
            raise RefusedError(Code.INVALID_CONFIG, f"Null value not supported for {name}")
        setting.check(name, value)
    return {name: value for name, value in settings.items() if value is not None}


@dataclass(frozen=True, slots=True)
class Effective:
    """What this broker acts on.

    Attributes:
        max_message_bytes: largest batch.
        log_append_time: the broker stamps records.
        before_max_ms, after_max_ms: how far a producer's stamp may lie from the broker's clock.
        retention_ms, retention_bytes: how long and how much is kept; -1 for all.
        compacted: every record needs a key.
    """

    max_message_bytes: int
    log_append_time: bool
    before_max_ms: int
    after_max_ms: int
    retention_ms: int
    retention_bytes: int
    compacted: bool

    @classmethod
    def of(cls, settings: Mapping[str, str]) -> Effective:
        """From a topic's own settings and the defaults."""

        def value(name: str) -> str:
            return settings.get(name, SETTINGS[name].default)

        policy = items(value("cleanup.policy"))
        deletes = "delete" in policy
        return cls(
            max_message_bytes=int(value("max.message.bytes")),
            log_append_time=value("message.timestamp.type") == "LogAppendTime",
            before_max_ms=int(value("message.timestamp.before.max.ms")),
            after_max_ms=int(value("message.timestamp.after.max.ms")),
            retention_ms=int(value("retention.ms")) if deletes else -1,
            retention_bytes=int(value("retention.bytes")) if deletes else -1,
            compacted="compact" in policy,
        )
