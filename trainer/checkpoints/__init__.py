"""Checkpoints: their store, how they are published and announced, and how serving follows them.

No torch here, but for what loads a ranker; the format is in ``docs/checkpoints.md``.
"""
