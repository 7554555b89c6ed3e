"""A local PyFlink with two threads and the Kafka connector."""

from __future__ import annotations

import os
import sys

from pyflink.common import Configuration
from pyflink.datastream import StreamExecutionEnvironment
from pyflink.table import StreamTableEnvironment

KAFKA = """
  'connector' = 'kafka', 'topic' = '{topic}', 'properties.bootstrap.servers' = '{bootstrap}',
  'format' = 'json', 'scan.startup.mode' = 'earliest-offset', 'scan.bounded.mode' = 'latest-offset'
"""


def environment(jar: str) -> tuple[StreamExecutionEnvironment, StreamTableEnvironment]:
    """Both of its programming interfaces."""
    config = Configuration()
    config.set_string("pipeline.jars", f"file://{os.path.abspath(jar)}")
    config.set_string("python.executable", sys.executable)
    config.set_string("python.client.executable", sys.executable)
    streams = StreamExecutionEnvironment.get_execution_environment(config)
    streams.set_parallelism(2)
    tables = StreamTableEnvironment.create(streams)
    tables.get_config().set("table.local-time-zone", "UTC")
    return streams, tables
