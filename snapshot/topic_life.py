"""Which life of a topic this is: one that is deleted and made anew is another log."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

from kafka.admin import KafkaAdminClient


def life_of(description: Mapping[str, Any]) -> bytes | None:
    """16 bytes that name this life of a topic, out of the broker's description of it.

    None where the broker gives topics no id: Apache Kafka does since 2.8.
    """
    found = description.get("topic_id")
    life = uuid.UUID(str(found)) if found else uuid.UUID(int=0)
    return life.bytes if life.int else None


def topic_life(topic: str, options: Mapping[str, Any]) -> bytes:
    """The life of a topic on a broker; empty where it is not known.

    ``options`` are those of a kafka-python client; what an admin client does not take is left out.
    """
    known = KafkaAdminClient.DEFAULT_CONFIG
    admin = KafkaAdminClient(**{name: value for name, value in options.items() if name in known})
    try:
        descriptions = admin.describe_topics([topic])
    finally:
        admin.close()
    return (life_of(descriptions[0]) if descriptions else None) or b""
