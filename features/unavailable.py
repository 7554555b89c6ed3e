"""The error of a store that gives no values, for those who know no socket of it."""

from __future__ import annotations


class StoreUnavailableError(RuntimeError):
    """Redis did not answer, or answered with an error."""
