"""From samples to weights: tensors, models, losses, metrics, checkpoints and their feed.

Knows neither Faust nor Redis.
"""
