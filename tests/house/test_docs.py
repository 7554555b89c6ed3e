"""The docs say what the declarations say: tables are compared, and their code is run."""

from __future__ import annotations

import json
import re
from pathlib import Path
from textwrap import dedent
from typing import Any

import pyarrow as pa
import pytest

from tenuto.features.events import BASE_FIELDS, MAX_INT, Event, Field
from tenuto.features.matrix import State
from tenuto.features.rules import TimeRules
from tenuto.presets import video
from tenuto.settings import Settings
from tenuto.snapshot.samples import sample_schema
from tenuto.streams.codec import EventCodec
from tenuto.streams.refusals import Reason

DOCS = Path(__file__).parents[2] / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
NAMES = {int: "int", float: "float", str: "str", bool: "bool"}


def page(name: str) -> str:
    return (DOCS / name).read_text()


def section(name: str, title: str) -> str:
    """The text under a heading, up to the next one of its level or above."""
    _, found, rest = page(name).partition(f"\n{title}\n")
    assert found, f"{name} has no heading {title!r}"
    level = title.split(" ")[0]
    return re.split(rf"\n#{{1,{len(level)}}} ", rest)[0]


def rows(text: str) -> list[list[str]]:
    """The rows of a section's tables, cell by cell, without their heads."""
    lines = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("|")]
    return [
        [cell.strip() for cell in line]
        for at, line in enumerate(lines)
        if not set("".join(line)) <= set("-| :")
        and not (at + 1 < len(lines) and set("".join(lines[at + 1])) <= set("-| :"))
    ]


def allowed(field: Field) -> str:
    """A field's values, as docs/events.md writes them."""
    if field.type is bool:
        return "true, false"
    if field.type is str:
        return f"{field.min_length} to {field.max_length} characters"
    low, high = (-MAX_INT if field.ge is None else field.ge), field.le
    return f"{low:,} to {high:,}" if high is not None else f"{low:,} to 2^48"


def field_rows(fields: dict[str, Field]) -> list[list[str]]:
    return [
        [
            f"`{name}`",
            NAMES[field.type],
            allowed(field),
            "yes" if field.required else "no",
            field.doc,
        ]
        for name, field in fields.items()
    ]


def test_every_event_record_has_the_documented_base_fields() -> None:
    assert rows(section("events.md", "## Every event")) == field_rows(dict(BASE_FIELDS))


@pytest.mark.parametrize("event", video.events, ids=lambda event: event.name)
def test_an_event_is_documented_as_it_is_declared(event: Event) -> None:
    text = section("events.md", f"### {event.name}")
    own = {n: f for n, f in event.all_fields.items() if n not in BASE_FIELDS}
    assert rows(text) == field_rows(own)
    prose = " ".join(text.split())
    assert event.doc in prose
    assert ("implies an impression" in prose) is event.implies_impression
    assert f"version {event.version}" in prose
    (example,) = re.findall(r"```json\n(.*?)```", text, re.DOTALL)
    record = json.loads(example)
    assert EventCodec(event).decode([example.encode()]).faults == {}
    assert {name: record[name] for name in event.example} == dict(event.example)


def test_the_preset_has_no_event_that_is_not_documented() -> None:
    titles = re.findall(r"^### (\w+)$", page("events.md"), re.MULTILINE)
    assert titles == [event.name for event in video.events]


def test_every_reason_of_a_dead_letter_is_documented_in_the_order_in_which_it_is_asked() -> None:
    found = rows(section("events.md", "## Dead letters"))
    assert [row[0] for row in found] == [f"`{reason}`" for reason in Reason]


def test_the_documented_tolerances_are_the_defaults() -> None:
    text = section("events.md", "## Time")
    rules, defaults = Settings().time.rules(), TimeRules()
    assert rules == defaults
    for row, ms in zip(
        rows(text),
        (rules.future_ms, rules.lateness_ms, rules.snapshot_lateness_ms, rules.slack_ms),
        strict=True,
    ):
        assert row[1] == f"{ms:,} ms"


def test_the_columns_of_the_small_preset_are_listed_in_order() -> None:
    found = rows(section("features.md", "## The columns of `video.small`"))
    assert [row[0].strip("`") for row in found] == [feature.name for feature in video.small]


def test_every_state_of_a_value_is_documented() -> None:
    found = rows(section("features.md", "## States"))
    assert [(row[0], row[1]) for row in found] == [
        (f"`{state.name.lower()}`", str(int(state))) for state in State
    ]


def run_blocks(name: str) -> None:
    """Run a page's Python blocks one after the other."""
    namespace: dict[str, Any] = {"__name__": name}
    for block in re.findall(r"```python\n(.*?)```", page(name), re.DOTALL):
        exec(compile(dedent(block), name, "exec", dont_inherit=True), namespace)
    for test in [value for key, value in namespace.items() if key.startswith("test_")]:
        test()


def test_the_code_in_features_md_runs_and_its_tests_pass() -> None:
    run_blocks("features.md")


def test_the_columns_of_samples_are_documented_with_their_types() -> None:
    columns = [("FEATURE", "0" * 16)]
    schema = sample_schema(columns, ["SCORE"], video.samples[0])
    found = [row[:3] for row in rows(section("samples.md", "## Columns"))]
    assert found == [
        [f"`{field.name}`", str(field.type), "yes" if field.nullable else "no"] for field in schema
    ]
    assert pa.types.is_float32(schema.field("FEATURE").type)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(DOCS)))
def test_links_between_pages_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)[)#]", path.read_text()):
        assert (path.parent / target).exists(), f"{path.name} links to {target}"


@pytest.mark.parametrize(
    "path", [p for p in PAGES if "KuaiRand" in p.read_text()] or [DOCS], ids=lambda p: p.name
)
def test_kuairand_is_named_with_its_authors_and_licence(path: Path) -> None:
    if path.is_file():
        text = path.read_text()
        assert "Gao et al., CIKM 2022" in text
        assert "CC BY-SA 4.0" in text


def test_every_test_that_a_page_names_is_there() -> None:
    root = DOCS.parent
    named = [
        (page.name, *found)
        for page in PAGES
        for found in re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", page.read_text())
    ]
    assert len(named) > 10
    for where, file, test in named:
        assert (root / file).is_file(), f"{where}: {file}"
        assert not test or f"def {test}(" in (root / file).read_text(), f"{where}: {file}::{test}"
