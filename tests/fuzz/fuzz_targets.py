"""Every decoder that takes bytes from outside, and how much of the inputs it gets."""

from __future__ import annotations

import fuzz_checkpoints as checkpoints
import fuzz_files as files
import fuzz_records as records
import fuzz_samples as samples
import fuzz_servers as servers
from fuzz_target import Target

TARGETS = [
    Target("events", 400, records.HOSTILE, records.events),
    Target("snapshots", 200, records.HOSTILE, records.snapshots),
    Target("dead-letters", 60, 1, records.dead_letters),
    Target("samples-records", 50, 1, samples.topic_records),
    Target("sink-manifests", 40, 1, samples.manifests),
    Target("sink-parquet", 15, 1, samples.parquet),
    Target("announcements", 60, 1, checkpoints.announcements),
    Target("checkpoints", 20, 1, checkpoints.checkpoints),
    Target("interaction-logs", 15, 1, files.interaction_logs),
    Target("settings", 20, 1, files.settings),
    Target("redis-values", 40, 1, servers.redis_values),
    Target("broker", 100, 1, servers.broker),
    Target("serving-example", 20, 1, servers.serving_example),
]
