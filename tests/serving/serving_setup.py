"""What a serving tier needs to start: topics, and a store in which three items were clicked."""

from __future__ import annotations

import uuid
from typing import Any

import numpy as np
from kafka.admin import KafkaAdminClient, NewTopic

from tenuto import local
from tenuto.features.aggregate import Aggregator
from tenuto.features.store import Store
from tenuto.presets import video
from tenuto.settings import Settings, load

PARTITIONS = 2
NOW = 1_700_000_000_000

_EMPTY: dict[str, Any] = {"ts": np.zeros(0, np.int64)}


def environment(stack: local.LocalStack, **more: str) -> dict[str, str]:
    """Settings of a namespace of its own, as variables."""
    return {
        "TENUTO_NAMESPACE": f"n{uuid.uuid4().hex[:8]}",
        "TENUTO_KAFKA__BOOTSTRAP": stack.bootstrap,
        "TENUTO_KAFKA__PARTITIONS": str(PARTITIONS),
        "TENUTO_REDIS__URL": stack.redis_url,
        **more,
    }


def set_up(env: dict[str, str], now_ms: int = NOW) -> Settings:
    """Topics, and a store in which i0, i1 and i2 were clicked once, twice and thrice."""
    settings = load(env=env).settings
    names = [event.name for event in video.app.events] + ["snapshots"]
    with KafkaAdminClient(**settings.kafka.kafka_python()) as admin:
        admin.create_topics(
            [NewTopic(f"{settings.namespace}.{name}", PARTITIONS, 1) for name in names]
        )
    layout = video.app.feature_set(settings.time.rules()).layout
    store = Store(settings.redis.client(), layout, PARTITIONS, settings.namespace)
    items = ["i0", "i1", "i1", "i2", "i2", "i2"]
    n = len(items)
    columns: dict[str, Any] = {
        "item_id": items,
        "user_id": ["u1"] * n,
        "query": ["q1"] * n,
        "position": np.zeros(n, np.int64),
        "ts": np.full(n, now_ms - 1_000),
    }
    for topic in layout.topics:
        for partition in range(PARTITIONS):
            slot = store.slot(topic, partition)
            entry = store.begin(slot, b"incarnation-0001", 0)
            if topic == "clicks" and partition == 0:
                deltas = Aggregator(layout).deltas("clicks", columns)
                store.apply(slot, entry, n, now_ms - 500, deltas)
            else:
                deltas = Aggregator(layout).deltas("clicks", _EMPTY)
                store.apply(slot, entry, 1, now_ms - 2_000, deltas)
    return settings
