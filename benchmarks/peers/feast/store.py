"""A Feast store on a Redis, made from what it is asked to hold; no server, no offline part."""

from __future__ import annotations

import warnings
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, PushSource, RepoConfig
from feast.types import Float32, String
from feast.value_type import ValueType

warnings.filterwarnings("ignore")


def open_store(folder: str, redis_address: str, views: dict[str, Any]) -> FeatureStore:
    """A store with these views.

    Args:
        folder: for its registry.
        redis_address: ``host:port``.
        views: name → ``{"keys": [entity, ...], "columns": [...]}``.
    """
    store = FeatureStore(config=RepoConfig(
        project="bench",
        registry=str(Path(folder) / "registry.db"),
        provider="local",
        online_store={"type": "redis", "connection_string": redis_address},
        entity_key_serialization_version=3,
    ))  # fmt: skip
    keys = sorted({key for view in views.values() for key in view["keys"]})
    entities = {key: Entity(name=key, join_keys=[key], value_type=ValueType.STRING) for key in keys}
    made: list[Any] = list(entities.values())
    for name, view in views.items():
        path = Path(folder) / f"{name}.parquet"
        row = {key: [""] for key in view["keys"]} | {c: [0.0] for c in view["columns"]}
        pd.DataFrame(row | {"ts": [datetime.now(UTC)]}).to_parquet(path)
        batch = FileSource(path=str(path), timestamp_field="ts")
        made.append(FeatureView(
            name=name,
            entities=[entities[key] for key in view["keys"]],
            ttl=timedelta(days=365),
            schema=[
                *(Field(name=key, dtype=String) for key in view["keys"]),
                *(Field(name=column, dtype=Float32) for column in view["columns"]),
            ],
            source=PushSource(name=f"{name}_push", batch_source=batch),
        ))  # fmt: skip
    store.apply(made)
    return store
