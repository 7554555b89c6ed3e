"""A Kafka broker of one node that keeps its log in memory: the embedded stack's own.

It speaks Kafka's protocol to unmodified clients: topics and their settings, produce (idempotent,
too), fetch with long polls, the classic group protocol, committed offsets. It has no replicas, no
transactions, no security and no disk: what it holds is gone when it stops. Run it with
``python -m tenuto.local.broker --port 9092``.

``partition_log``, ``partition``, ``sequences``, ``topics``, ``topic_settings``, ``group`` and
``member`` are the broker proper, without sockets or clocks; ``server``, ``framing`` and
``dispatch`` carry the protocol; each ``*_api`` module answers a few kinds of request.
"""
