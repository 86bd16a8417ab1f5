"""How the tests themselves are kept."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from gazal.common.paths import ROOT

FILES = sorted((ROOT / "tests").rglob("*.py"))
CLOCKS = {"perf_counter", "perf_counter_ns", "monotonic", "process_time", "time", "time_ns", "elapsed", "thread_time"}


def imported(path: Path) -> set[str]:
    """The last part of each module that a file imports."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
        if isinstance(node, ast.ImportFrom) and node.module:
            names.append(node.module)
        found |= {name.rpartition(".")[2] for name in names}
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT / "tests").as_posix())
def test_no_file_imports_a_test_file(path: Path) -> None:
    tests = {other.stem for other in FILES if other.name.startswith("test_")}
    assert not imported(path) & tests, f"what several test files share goes to tests/helpers: {imported(path) & tests}"


def test_no_two_test_files_have_one_name() -> None:
    names = [path.name for path in FILES if path.name.startswith("test_")]
    assert len(names) == len(set(names)), "pytest imports test files by their name alone"


def clock_names(tree: ast.AST, functions: set[str]) -> set[str]:
    """Variables that hold a clock's reading, or what one of ``functions`` made of one."""
    found: set[str] = set(functions)
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and reads_clock(node.value, found):
            targets = [name for target in node.targets for name in ast.walk(target)]
            found |= {name.id for name in targets if isinstance(name, ast.Name)}
    return found


def reads_clock(node: ast.AST, names: set[str]) -> bool:
    """Whether an expression calls one of ``time``'s clocks, or uses a variable that holds a reading."""
    for part in ast.walk(node):
        if isinstance(part, ast.Attribute) and part.attr in CLOCKS and ast.unparse(part.value) == "time":
            return True
        if isinstance(part, ast.Name) and part.id in names:
            return True
    return False


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT / "tests").as_posix())
def test_no_test_asserts_how_long_something_took(path: Path) -> None:
    functions = [n for n in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(n, ast.FunctionDef)]
    timers = set()
    for function in functions:
        names, returns = clock_names(function, set()), [n for n in ast.walk(function) if isinstance(n, ast.Return)]
        if any(node.value and reads_clock(node.value, names) for node in returns):
            timers.add(function.name)
    for function in functions:
        names = clock_names(function, timers)
        for node in ast.walk(function):
            if isinstance(node, ast.Assert):
                assert not reads_clock(node.test, names), f"{path.name}:{node.lineno}: speed is for measure/"
