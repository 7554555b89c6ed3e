"""How each kind of fault is done, to a run under way."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import redis
from fault_anew import broker_anew
from fault_drive import PATIENCE_S, SentRecord
from fault_field import NAMES, Field
from fault_schedule import Fault
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition

from tenuto.features.aggregate import entity_key
from tenuto.features.entities import TRAFFIC

# Longer than the group's session: its partitions are given to another.
_GIVEN_UP_S = 8.0
# Less than a worker takes from its first partitions to its first record.
_APART_S = 0.4


def kill(field: Field, fault: Fault) -> None:
    """SIGKILL a worker; the process manager starts it again."""
    field.hurt(fault.target)
    field.run.workers.kill(NAMES[fault.target])


def freeze(field: Field, fault: Fault) -> None:
    """SIGSTOP a worker for less than its session."""
    pid = field.run.workers.pid(NAMES[fault.target])
    field.hurt(fault.target)
    field.signal(pid, signal.SIGSTOP)
    field.later.do(fault.seconds, lambda: field.signal(pid, signal.SIGCONT))


def zombie(field: Field, fault: Fault) -> None:
    """SIGSTOP a worker until another has its partitions, then let it go on."""
    pid = field.run.workers.pid(NAMES[fault.target])
    field.hurt(fault.target)
    field.signal(pid, signal.SIGSTOP)
    field.start_another(fault.target)
    field.later.do(_GIVEN_UP_S, lambda: field.signal(pid, signal.SIGCONT))


def join_and_leave(field: Field, fault: Fault) -> None:
    """Two more workers under load, one while the group still deals out for the other; both leave
    again.
    """
    field.hurt(fault.target)
    for _ in range(2):
        name = field.start_another(fault.target)
        field.later.do(5.0, partial(_leave, field, name))
        time.sleep(_APART_S)


def _leave(field: Field, name: str) -> None:
    field.signal(field.run.workers.pid(name), signal.SIGTERM)


_FORGET = "for _, key in ipairs(redis.call('KEYS', ARGV[1] .. '*')) do redis.call('DEL', key) end"


def redis_emptied(field: Field, fault: Fault) -> None:
    field.hurt("redis")
    if field.schedule.buckets > 1 and fault.target != "all":
        # As a node of a cluster that has come back empty: one bucket is lost, and no other.
        store = field.store.stores[-1]
        field.redis.eval(_FORGET, 0, store.prefix)
        return
    field.redis.flushall()


def redis_killed(field: Field, fault: Fault) -> None:
    field.hurt("redis")
    field.servers.restart_redis(keep=field.schedule.persist)


def redis_away(field: Field, fault: Fault) -> None:
    field.hurt("redis")
    field.servers.kill_redis()
    keep = field.schedule.persist
    field.later.do(fault.seconds, lambda: field.servers.start_redis(keep=keep))


def redis_older(field: Field, fault: Fault) -> None:
    """A dump of now is what it has after a crash later on."""
    dump = field.servers.dump_redis()

    def crash() -> None:
        field.hurt("redis")
        field.servers.restart_redis(keep=False, rdb=dump)

    field.at("applying", fault.at + 0.12, crash)


def redis_truncated(field: Field, fault: Fault) -> None:
    """Its append-only file has lost its last bytes."""
    field.hurt("redis")
    field.servers.restart_redis(keep=True, cut_bytes=fault.number)


def redis_full(field: Field, fault: Fault) -> None:
    """It refuses every write that needs memory."""
    client = field.redis
    field.hurt("redis")
    client.config_set("maxmemory", max(1, int(client.info("memory")["used_memory"]) - 1))
    field.later.do(fault.seconds, lambda: _ignored(client.config_set, "maxmemory", 0))


def redis_evicting(field: Field, fault: Fault) -> None:
    """A worker that starts beside a Redis that may evict keys refuses, and says why."""
    client, frozen = field.redis, field.pids("features")
    # Those that run look too, now and then, and would be right to end.
    for pid in frozen:
        field.signal(pid, signal.SIGSTOP)
    field.hurt("redis")
    client.config_set("maxmemory-policy", "allkeys-lru")
    try:
        refused = subprocess.run(
            [sys.executable, "-m", "tenuto", "worker", "features"],
            env={**os.environ, **field.run.workers.env, "TENUTO_WORKERS__INSTANCE": "refused"},
            capture_output=True, text=True, timeout=60.0,
        )  # fmt: skip
    finally:
        client.config_set("maxmemory-policy", "noeviction")
        for pid in frozen:
            field.signal(pid, signal.SIGCONT)
    if refused.returncode != 2 or "must be noeviction" not in refused.stderr:
        field.complaints.append(
            f"redis evicting: a worker was not refused: {refused.returncode}: {refused.stderr}"
        )


def redis_cut(field: Field, fault: Fault) -> None:
    assert field.servers.redis_proxy is not None
    field.hurt("redis")
    field.servers.redis_proxy.cut()


def redis_slow(field: Field, fault: Fault) -> None:
    proxy = field.servers.redis_proxy
    assert proxy is not None
    field.hurt("redis")
    proxy.delay(0.03)
    field.later.do(fault.seconds, lambda: proxy.delay(0.0))


def broker_cut(field: Field, fault: Fault) -> None:
    assert field.servers.broker_proxy is not None
    field.hurt("broker")
    field.servers.broker_proxy.cut()


def broker_killed(field: Field, fault: Fault) -> None:
    """SIGKILL, and a start on its own log."""
    broker = field.servers.broker
    assert broker is not None
    field.hurt("broker")
    broker.kill()
    field.later.do(fault.seconds, lambda: broker.restart(1.0))


def script_fails(field: Field, fault: Fault) -> None:
    """What a script reads first is of another type or length: it fails before it has written."""
    client = field.redis
    view = next(v for v in field.store.layout.views if v.entity == TRAFFIC)
    traffic = entity_key(view, ())
    store = field.store.store_of(traffic)
    key = store.prefix + traffic if fault.number in SPOILS_AN_ENTITY else store.progress_key
    # Atomic, so that nothing is written between.
    with client.pipeline(transaction=True) as at_once:
        try:
            at_once.rename(key, "faults:aside")
            if fault.number in (2, 3):
                at_once.set(key, b"foreign")
            else:
                at_once.rpush(key, b"foreign")
            at_once.execute()
        except redis.ResponseError:
            # Not there yet: nothing to spoil.
            client.delete(key)
            return
    field.hurt("redis")
    if fault.number in SPOILS_AN_ENTITY:
        field.whole.clear()

    def mend() -> None:
        with client.pipeline(transaction=True) as at_once:
            at_once.delete(key)
            at_once.rename("faults:aside", key)
            # After a loss in between there is nothing to bring back.
            _ignored(at_once.execute)
        field.whole.set()

    field.later.do(max(1.0, fault.seconds), mend)


def duplicates(field: Field, fault: Fault) -> None:
    """Records that were sent are sent again, byte for byte."""
    for record in field.outbox.earlier[-fault.number :]:
        _send(field, record, record.value)
    field.outbox.inner.flush(PATIENCE_S)


def repeats(field: Field, fault: Fault) -> None:
    """Users do again what they did: events with another time, of the same request and item."""
    events = set(field.run.names.events(field.run.platform.events).values())
    for record in field.outbox.earlier[-4 * fault.number :]:
        if record.topic in events:
            fields = json.loads(record.value)
            fields["ts"] += 1_500
            _send(field, record, json.dumps(fields).encode())
    field.outbox.inner.flush(PATIENCE_S)


def transactions(field: Field, fault: Fault) -> None:
    """Records of a transactional producer, of which one transaction is aborted: two markers."""
    producer = KafkaProducer(
        **field.run.settings.kafka.kafka_python(),
        transactional_id=f"{field.run.settings.namespace}-{fault.number}",
    )
    events = set(field.run.names.events(field.run.platform.events).values())
    records = [r for r in field.outbox.earlier if r.topic in events][-fault.number :]
    try:
        producer.init_transactions()
        for ends in (producer.commit_transaction, producer.abort_transaction):
            producer.begin_transaction()
            for record in records:
                producer.send(
                    record.topic, record.value, key=record.key, partition=record.partition,
                    headers=list(record.headers), timestamp_ms=_stamp(field, record),
                )  # fmt: skip
            producer.flush(PATIENCE_S)
            ends()
    finally:
        producer.close()


def retention(field: Field, fault: Fault) -> None:
    """The broker deletes records that the feature workers have not read.

    It keeps the last one, as a broker keeps its newest segment: in lock-step nobody says again how
    late it is, and a joiner that had not read it would wait for that for ever.
    """
    frozen = field.pids("features")
    for pid in frozen:
        field.signal(pid, signal.SIGSTOP)

    def delete() -> None:
        tp = TopicPartition(field.run.names.events(field.run.platform.events)["impressions"], 0)
        options = field.run.settings.kafka.kafka_python()
        consumer = KafkaConsumer(**options)
        try:
            end = consumer.end_offsets([tp])[tp]
        finally:
            consumer.close()
        admin = KafkaAdminClient(**options)
        try:
            admin.delete_records({tp: max(0, end - 1)}, timeout_ms=10_000)
        finally:
            admin.close()
        for pid in frozen:
            field.signal(pid, signal.SIGCONT)

    field.hurt("broker")
    field.at("applying", fault.at, delete)


def client_killed(field: Field, fault: Fault) -> None:
    field.client.kill()


def client_frozen(field: Field, fault: Fault) -> None:
    """What it captured before may be too old when it goes on."""
    field.client.signal(signal.SIGSTOP)
    field.later.do(fault.seconds, lambda: field.client.signal(signal.SIGCONT))


def _send(field: Field, record: SentRecord, value: bytes) -> None:
    field.outbox.inner.send(
        record.topic,
        value,
        key=record.key,
        partition=record.partition,
        headers=list(record.headers),
        timestamp_ms=_stamp(field, record),
    )


def _stamp(field: Field, record: SentRecord) -> int:
    """The time of the record's partition: none goes back."""
    return field.outbox.stamps.get((record.topic, record.partition), record.timestamp_ms)


def _ignored(action: Callable[..., Any], *arguments: Any) -> None:
    with contextlib.suppress(redis.RedisError):
        action(*arguments)


INJECTORS: dict[str, Callable[[Field, Fault], None]] = {
    "kill": kill,
    "freeze": freeze,
    "zombie": zombie,
    "join and leave": join_and_leave,
    "redis emptied": redis_emptied,
    "redis killed": redis_killed,
    "redis away": redis_away,
    "redis older": redis_older,
    "redis truncated": redis_truncated,
    "redis full": redis_full,
    "redis evicting": redis_evicting,
    "redis cut": redis_cut,
    "redis slow": redis_slow,
    "broker cut": broker_cut,
    "broker killed": broker_killed,
    "script fails": script_fails,
    "duplicates": duplicates,
    "repeats": repeats,
    "transactions": transactions,
    "retention": retention,
    "broker anew": broker_anew,
    "broker away": broker_killed,
    "client killed": client_killed,
    "client frozen": client_frozen,
}
SPOILS_AN_ENTITY = (1, 2)
"""Numbers of ``script fails`` that spoil the key of an entity and not that of progress."""
BEFORE_START = {"die at file", "disk full", "clock", "compacted"}
"""Kinds that are arranged before the workers start."""
