"""PyFlink: HOP per key from Kafka in SQL; into a blackhole, or each closed window into Redis."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import redis
from pyflink.datastream.functions import FlatMapFunction, RuntimeContext

sys.path.insert(0, str(Path(__file__).parent))

from environment import KAFKA, environment

SOURCE = (
    """
CREATE TABLE events (
  item_id STRING, ts BIGINT, t AS TO_TIMESTAMP_LTZ(ts, 3), WATERMARK FOR t AS t
) WITH ("""
    + KAFKA
    + ")"
)
BLACKHOLE = """
CREATE TABLE counts (item_id STRING, start_ms BIGINT, n BIGINT) WITH ('connector' = 'blackhole')"""
HOP = """
SELECT item_id, UNIX_TIMESTAMP(CAST(window_start AS STRING)) * 1000 AS start_ms, COUNT(*) AS n
FROM HOP(TABLE events, DESCRIPTOR(t), INTERVAL '{hop_s}' SECOND, INTERVAL '{size_s}' SECOND(3))
GROUP BY item_id, window_start, window_end"""


class ToRedis(FlatMapFunction):
    """Sets each key to the count of its newest window that ended, a thousand in one round trip."""

    def __init__(self, url: str) -> None:
        self.url = url

    def open(self, runtime_context: RuntimeContext) -> None:
        self.pipe = redis.Redis.from_url(self.url).pipeline(transaction=False)

    def flat_map(self, value):  # type: ignore[no-untyped-def]
        item, start_ms, n = value
        self.pipe.set(f"flink:{item}", f"{start_ms}:{n}")
        if len(self.pipe) >= 1000:
            self.pipe.execute()
        return iter(())

    def close(self) -> None:
        self.pipe.execute()


def main() -> None:
    asked = json.loads(sys.argv[1])
    env, table = environment(asked["jar"])
    table.execute_sql(SOURCE.format(**asked))
    query = HOP.format(**asked)
    began_s = time.perf_counter()
    if asked["sink"] == "blackhole":
        table.execute_sql(BLACKHOLE)
        table.execute_sql(f"INSERT INTO counts {query}").wait()
    else:
        stream = table.to_data_stream(table.sql_query(query))
        # One writer, or an older window could overwrite a newer one.
        stream.flat_map(ToRedis(asked["redis"])).set_parallelism(1).print().set_parallelism(1)
        env.execute()
    seconds = time.perf_counter() - began_s
    client = redis.Redis.from_url(asked["redis"], decode_responses=True)
    newest = {}
    if asked["sink"] == "redis":
        for key in asked["keys"]:
            start_ms, _, n = str(client.get(f"flink:{key}")).partition(":")
            newest[key] = [int(start_ms), int(n)]
    print()
    print(json.dumps({"seconds": seconds, "newest": newest}))


main()
