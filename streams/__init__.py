"""Kafka: topics, the doors that judge records, whole-batch delivery through Faust, and its agents.

Knows no torch. What a feature or a sample is lives below, in ``features`` and ``snapshot``.
"""
