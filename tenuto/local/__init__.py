"""Local stacks: a broker and a Redis as child processes on free loopback ports.

For the demo, for tests and for benchmarks. Nothing in the platform itself imports this package: a
deployment brings its own Kafka and Redis.
"""

from tenuto.local.processes import StackError
from tenuto.local.stack import Kind, LocalStack, start

__all__ = ["Kind", "LocalStack", "StackError", "start"]
