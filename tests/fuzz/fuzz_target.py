"""What a fuzzer needs to know of a decoder, and what it may say of an input."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

Outcome = Counter[str]
"""How many inputs were accepted (``"accepted"``), or refused, by reason."""


class FindingError(AssertionError):
    """Something that must not happen: a good neighbour lost, a refusal without a reason."""


@dataclass(frozen=True)
class Decoder:
    """One decoder under a fuzzer, built in the process that tries it.

    Attributes:
        make: an input, from a generator alone: bytes, numbers, text, lists and maps of them.
        judge: decode it. Any exception that comes out is a finding; what is documented is caught
            there and counted.
    """

    make: Callable[[Random], Any]
    judge: Callable[[Any], Outcome]


@dataclass(frozen=True)
class Target:
    """A decoder by name.

    Attributes:
        share: of all inputs, in parts of the sum of the shares.
        records: inputs that one call of ``make`` stands for.
        build: the decoder, with a folder to write in.
    """

    name: str
    share: int
    records: int
    build: Callable[[Path], Decoder]


def refused(error: Exception) -> Outcome:
    """A refusal by a typed error, whose text must say something."""
    text = str(error)
    if not text.strip():
        raise FindingError(f"{type(error).__name__} without a text") from error
    if "malloc of size" in text or "MemoryError" in text:
        raise FindingError(f"allocated before it was refused: {text[:200]}") from error
    return Counter({type(error).__name__: 1})


ACCEPTED: Outcome = Counter({"accepted": 1})
