"""What a feature is: declarations, tiles and windows, derived values, and their life in Redis.

Knows neither Kafka nor torch. Time is an argument everywhere but in ``client.py``, whose clock
only bounds waiting.
"""
