"""Windows of event time, kept as a ring of tiles.

A window at time ``t`` is the sum of the tiles in ``(tile(t - w), tile(t)]``: reading does the
summing, so a window decays without traffic. Tile sizes divide one another, so that one sort of a
batch serves every window.
"""

from __future__ import annotations

from dataclasses import dataclass

from tenuto.features.durations import duration_ms, duration_text
from tenuto.features.rules import TimeRules

# Each divides the next; a window takes the largest that is at most 1/24 of it.
_TILE_SIZES_MS = tuple(duration_ms(t) for t in ("1s", "10s", "1m", "10m", "30m", "6h", "1d"))
_FINENESS = 24


@dataclass(frozen=True, order=True, slots=True)
class Window:
    """A window length and the tile that it is counted in, both in milliseconds."""

    length_ms: int
    tile_ms: int

    @classmethod
    def of(cls, text: str | int) -> Window:
        """The window of a declared length such as ``"1h"``.

        Raises:
            ValueError: shorter than 24 s, or not a whole number of its tiles.
        """
        length_ms = duration_ms(text)
        fitting = [tile for tile in _TILE_SIZES_MS if tile * _FINENESS <= length_ms]
        if not fitting or length_ms % fitting[-1]:
            raise ValueError(
                f"window {text!r}: must be at least 24s and a multiple of its tile"
                f" ({duration_text(fitting[-1]) if fitting else '1s'})"
            )
        return cls(length_ms, fitting[-1])

    @property
    def tiles(self) -> int:
        """Tiles that make up the window."""
        return self.length_ms // self.tile_ms

    def ring_length(self, rules: TimeRules) -> int:
        """Slots of its ring: the window, the future tolerance, the as-of slack, and one more."""
        future = -(-rules.future_ms // self.tile_ms)
        slack = -(-rules.slack_ms // self.tile_ms)
        return self.tiles + future + slack + 1

    def __str__(self) -> str:
        return duration_text(self.length_ms)
