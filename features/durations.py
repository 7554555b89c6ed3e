"""Durations as people write them ("5m", "10s", "7d") to and from integer milliseconds."""

from __future__ import annotations

import re

_UNITS_MS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_PATTERN = re.compile(r"(\d+)\s*(ms|s|m|min|h|d)")


def duration_ms(text: str | int) -> int:
    """Milliseconds of a duration such as ``"5m"``; an int is taken as milliseconds already.

    Raises:
        ValueError: the text is not a whole number and one of the units ms, s, m, h, d.
    """
    if isinstance(text, int):
        return text
    match = _PATTERN.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is not a duration: write for example '10s', '5m', '1h' or '7d'")
    unit = "m" if match[2] == "min" else match[2]
    return int(match[1]) * _UNITS_MS[unit]


def duration_text(ms: int) -> str:
    """The shortest exact spelling of ``ms``: 300000 is ``"5m"``, 86400000 is ``"1d"``."""
    for unit in ("d", "h", "m", "s"):
        if ms and ms % _UNITS_MS[unit] == 0:
            return f"{ms // _UNITS_MS[unit]}{unit}"
    return f"{ms}ms"
