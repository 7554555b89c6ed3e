"""What docs/metrics.md says that a process serves, and what it does serve, in one form."""

from __future__ import annotations

import re
import urllib.request
from collections.abc import Iterable
from pathlib import Path

from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

DOC = Path(__file__).parents[2] / "docs/metrics.md"


def documented(section: str) -> dict[str, str]:
    """Type by metric name, as the section's table says."""
    rows = re.findall(r"^\| `(tenuto_\w+)` \| (\w+) \|", _text(section), re.MULTILINE)
    assert rows, section
    return dict(rows)


def documented_labels(section: str) -> dict[str, set[str]]:
    """Labels by metric name, as the section's table says."""
    rows = re.findall(
        r"^\| `(tenuto_\w+)` \| \w+ \| [^|]* \| ([^|]*) \|", _text(section), re.MULTILINE
    )
    return {name: set(labels.replace(",", " ").split()) for name, labels in rows}


def served(families: Iterable[Metric]) -> dict[str, str]:
    """Type by metric name, as exposed; without the client library's own."""
    found = {}
    for family in families:
        if family.name.startswith("tenuto_") and not family.name.endswith("_created"):
            suffix = "_total" if family.type == "counter" else ""
            found[family.name.removesuffix("_total") + suffix] = family.type
    return found


def scrape(port: int) -> dict[str, Metric]:
    """A process's families by name.

    Raises:
        OSError: it does not answer.
    """
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        text = answer.read().decode()
    return {family.name: family for family in text_string_to_metric_families(text)}


def total(families: dict[str, Metric], name: str, **labels: str) -> float:
    """A metric's sum over the series that have these labels."""
    samples = [s for family in families.values() for s in family.samples]
    return sum(s.value for s in samples if s.name == name and labels.items() <= s.labels.items())


def _text(section: str) -> str:
    return DOC.read_text().split(f"## {section}\n", 1)[1].split("\n## ", 1)[0]
