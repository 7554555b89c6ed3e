"""What the package never does: run what it reads, unpickle, or hand text to a shell."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]
FOLDERS = (
    "features",
    "streams",
    "snapshot",
    "trainer",
    "tenuto",
    "examples",
    "benchmarks",
    "deploy",
)
FORBIDDEN_MODULES = {
    "pickle",
    "cPickle",
    "_pickle",
    "dill",
    "cloudpickle",
    "marshal",
    "shelve",
    "joblib",
}
FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__"}
FORBIDDEN_METHODS = {
    ("os", "system"), ("os", "popen"), ("yaml", "load"), ("yaml", "unsafe_load"),
    ("yaml", "full_load"), ("numpy", "fromfile"), ("pandas", "read_pickle"), ("pd", "read_pickle"),
    ("subprocess", "getoutput"), ("subprocess", "getstatusoutput"), ("pa", "deserialize"),
}  # fmt: skip


def faults(source: str) -> Iterator[str]:
    """What a module does that none of ours may."""
    for node in ast.walk(ast.parse(source)):
        line = getattr(node, "lineno", 0)
        if isinstance(node, ast.Import):
            names = {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names = {(node.module or "").partition(".")[0]}
        else:
            names = set()
        for name in names & FORBIDDEN_MODULES:
            yield f"{line}: import {name}"
        if isinstance(node, ast.Call):
            yield from (f"{line}: {found}" for found in _of_call(node))


def _of_call(call: ast.Call) -> Iterator[str]:
    given = {keyword.arg: keyword.value for keyword in call.keywords}
    shell = given.get("shell")
    if shell is not None and not (isinstance(shell, ast.Constant) and not shell.value):
        yield "shell="
    pickled = given.get("allow_pickle")
    if pickled is not None and not (isinstance(pickled, ast.Constant) and not pickled.value):
        yield "allow_pickle="
    if isinstance(call.func, ast.Name) and call.func.id in FORBIDDEN_CALLS:
        yield f"{call.func.id}()"
    if isinstance(call.func, ast.Attribute) and isinstance(call.func.value, ast.Name):
        named = call.func.value.id, call.func.attr
        if named in FORBIDDEN_METHODS:
            yield ".".join(named)
        only = given.get("weights_only")
        safe = isinstance(only, ast.Constant) and only.value is True
        if named == ("torch", "load") and not safe:
            yield "torch.load without weights_only=True"


def modules() -> list[Path]:
    found = [path for folder in FOLDERS for path in (CHECKOUT / folder).rglob("*.py")]
    return sorted({path.resolve() for path in found})


def test_every_module_is_looked_at() -> None:
    # tenuto/features and its like are links to folders that are in the list by themselves.
    assert len(modules()) > 250


def test_nothing_that_is_read_is_ever_executed() -> None:
    found = [
        f"{path.relative_to(CHECKOUT)}:{fault}"
        for path in modules()
        for fault in faults(path.read_text(encoding="utf-8"))
    ]
    assert found == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle", "from pickle import loads", "import cloudpickle.x", "eval('1')", "exec(x)",
        "import yaml\nyaml.load(x)", "torch.load(path)", "torch.load(path, weights_only=False)",
        "subprocess.run(x, shell=True)", "subprocess.run(x, shell=flag)", "os.system(x)",
        "np.load(x, allow_pickle=True)", "__import__('x')", "def f():\n  import dill",
    ],
)  # fmt: skip
def test_each_way_would_be_seen(source: str) -> None:
    assert list(faults(source))


@pytest.mark.parametrize(
    "source",
    [
        "torch.load(path, weights_only=True)", "yaml.safe_load(x)", "re.compile(x)", "model.eval()",
        "subprocess.run([x], shell=False)", "np.load(x, allow_pickle=False)", "pipeline.exec()",
    ],
)  # fmt: skip
def test_what_is_harmless_is_let_be(source: str) -> None:
    assert not list(faults(source))
