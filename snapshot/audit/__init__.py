"""The audit: the log replayed through a second, deliberately naive implementation.

Lists, dicts and loops over single records; it shares declarations with the platform and no code
that computes (import-linter checks it). Whatever it says is equal was computed twice, in two ways.
"""
