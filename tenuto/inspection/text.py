"""Plain text for a terminal: tables, moments and spans of time. Values only, no output."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

NOTHING = "-"


def table(header: Sequence[str], rows: Sequence[Sequence[Any]], indent: int = 2) -> list[str]:
    """Lines of a table; numbers to the right, None as ``-``."""
    cells = [[cell_text(cell) for cell in row] for row in rows]
    columns = range(len(header))
    widths = [max([len(header[c]), *(len(row[c]) for row in cells)]) for c in columns]
    right = [any(_is_number(row[c]) for row in rows) for c in columns]
    lines = []
    for row in [list(header), *cells]:
        padded = [
            text.rjust(width) if is_right else text.ljust(width)
            for text, width, is_right in zip(row, widths, right, strict=True)
        ]
        lines.append((" " * indent + "  ".join(padded)).rstrip())
    return lines


def cell_text(value: Any) -> str:
    """One value, as short as it is clear."""
    if value is None or value == "":
        return NOTHING
    if isinstance(value, float):
        return f"{value:.6g}"
    text = str(value)
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def moment(ms: int | None) -> str:
    """Epoch ms as ISO 8601 in UTC, to the millisecond."""
    if ms is None or ms < 0:
        return NOTHING
    try:
        found = datetime.fromtimestamp(ms / 1000.0, UTC)
    except (ValueError, OverflowError, OSError):
        return f"{ms} ms"
    return f"{found:%Y-%m-%dT%H:%M:%S}.{ms % 1000:03d}Z"


def moment_ms(text: str) -> int:
    """Epoch ms of ``1700000000000`` or ``2023-11-14T22:13:20Z``; without a zone it is UTC.

    Raises:
        ValueError: it is neither.
    """
    if text.isascii() and text.isdigit():
        return int(text)
    try:
        found = datetime.fromisoformat(text)
    except ValueError as error:
        raise ValueError(
            f"{text!r}: write epoch milliseconds, or for example 2023-11-14T22:13:20Z"
        ) from error
    whole = found if found.tzinfo else found.replace(tzinfo=UTC)
    return round(whole.timestamp() * 1000.0)


def span(ms: int) -> str:
    """A span of time in its two largest units, such as ``1h 5m``, ``3.2s`` or ``-40ms``."""
    sign, rest = ("-", -ms) if ms < 0 else ("", ms)
    if rest < 1_000:
        return f"{sign}{rest}ms"
    if rest < 60_000:
        return f"{sign}{rest / 1000:.1f}s"
    parts: list[str] = []
    for unit, size in (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000)):
        if rest >= size and len(parts) < 2:
            parts.append(f"{rest // size}{unit}")
            rest %= size
        elif parts:
            break
    return sign + " ".join(parts)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
