"""The packages of the preparer stand above each other, and none imports one that is not below it."""

from __future__ import annotations

import ast
from pathlib import Path

import preparer
import pytest

ROOT = Path(preparer.__file__).parent
BELOW = {
    "config": set(),
    "ledger": {"config"},
    "broker": {"config", "ledger"},
    "areas": {"config"},
    "staging": {"config", "ledger", "areas"},
    "rucio": {"config"},
    "worker": {"config", "ledger", "broker", "staging"},
    "api": {"config", "ledger", "broker", "rucio", "staging"},
    "ui": {"config", "ledger", "broker", "api", "areas"},
    "app": {"config", "ledger", "broker", "rucio", "staging", "api", "ui"},
    "admin": {"config", "broker"},
}


def imported(path: Path) -> set[str]:
    """Parts of the preparer that a module imports."""
    names: list[str] = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return {name.split(".")[1] for name in names if name.startswith("preparer.")}


@pytest.mark.parametrize("part", BELOW)
def test_nothing_imports_upwards(part: str) -> None:
    modules = list((ROOT / part).rglob("*.py")) or [ROOT / f"{part}.py"]
    found = set().union(*map(imported, modules))
    assert found <= BELOW[part] | {part}


def test_every_part_has_its_place() -> None:
    parts = {path.stem for path in ROOT.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert parts - {"__init__"} == BELOW.keys()
