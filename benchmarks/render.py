"""docs/benchmarks.md, its plots, docs/capacity.md and the README's table of speeds.

All of it is ``benchmarks/results/*.json`` and no more.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from pathlib import Path

from benchmarks import capacity, readme
from benchmarks.harness import RESULTS, Result, load
from benchmarks.limits import limit_of
from benchmarks.plots import PLOTS, draw

DOCS = Path(__file__).parents[1] / "docs"
PAGE = DOCS / "benchmarks.md"
CAPACITY = DOCS / "capacity.md"
FIGURES = DOCS / "benchmarks"
README = DOCS.parent / "README.md"
_HEAD = """# Benchmarks

Written by `python -m benchmarks --render` from `benchmarks/results/`; `make bench` measures all
anew (`SHORT=1`: a quick look). Every figure is a median over the rounds of one run, with the
smallest and the largest in brackets; the sides of a run take turns on the same servers and read the
same events.
What each side computed was compared with a plain count, and a difference fails the run. Peers are
pinned in `benchmarks/peers/`. A goal that was not reached says what limits it.
"""


def render(names: tuple[str, ...] = ()) -> None:
    """Write pages and plots of all results there are, in the order of ``names``."""
    found = {path.stem: load(path) for path in RESULTS.glob("*.json") if "." not in path.stem}
    order = [name for name in names if name in found] or sorted(found)
    parts = [_HEAD, *_goals([found[name] for name in order])]
    for name in order:
        parts += _section(found[name])
    PAGE.write_text("\n".join(parts).rstrip() + "\n")
    if all(name in found for name in capacity.NEEDED):
        CAPACITY.write_text(capacity.page(found))
    if all(name in found for name in readme.NEEDED):
        README.write_text(readme.with_speeds(README.read_text(), found))


def _goals(results: list[Result]) -> Iterator[str]:
    goals = [(result, goal) for result in results for goal in result.goals]
    if not goals:
        return
    yield "## Goals\n"
    yield "| benchmark | goal | measured | reached | what limits it |"
    yield "|---|---|---|---|---|"
    for result, goal in goals:
        reached = "yes" if goal["reached"] else "**no**"
        yield (
            f"| [{result.name}](#{result.name}) | {goal['text']} | {_number(goal['measured'])}"
            f" | {reached} | {'' if goal['reached'] else limit_of(goal['text'])} |"
        )
    yield ""


def _section(result: Result) -> Iterator[str]:
    yield f"## {result.name}\n"
    yield f"{result.title}.\n"
    for plot in PLOTS.get(result.name, ()):
        if path := draw(result, plot, FIGURES, _number):
            yield f"![{plot.axis}]({path.relative_to(DOCS)})\n"
    metrics = result.metrics()
    yield "| side | " + " | ".join(metric.replace("_", " ") for metric in metrics) + " |"
    yield "|---|" + "--:|" * len(metrics)
    for side, own in result.sides.items():
        cells = [_cell(own[metric]) if metric in own else "" for metric in metrics]
        yield f"| {side} | " + " | ".join(cells) + " |"
    yield ""
    yield from (f"- **{side}**: {text}" for side, text in result.delivers.items())
    yield from (f"- {note}" for note in result.notes)
    yield f"- compared with a plain count: {'; '.join(result.checked) or 'nothing'}"
    machine = result.machine
    before, after = (result.load.get(when, [0.0])[0] for when in ("before", "after"))
    versions = ", ".join(f"{name} {version}" for name, version in result.versions.items())
    yield (
        f"- `{result.command}`, {result.started} UTC, {machine['cores']} cores of {machine['cpu']},"
        f" {machine['memory_gb']} GB, {machine['system']}, Python {machine['python']};"
        f" load {before:.1f} before, {after:.1f} after; {versions}"
    )
    yield ""


def _cell(values: list[float]) -> str:
    middle, low, high = map(_number, (statistics.median(values), min(values), max(values)))
    return middle if low == high else f"{middle} ({low}–{high})"


def _number(value: float) -> str:
    if value == 0:
        return "0"
    if abs(value) >= 1_000:
        return f"{value:,.0f}"
    return f"{value:.3g}"
