"""Definitions load without heavy libraries, and layers import only layers below."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "pyspark", "great_expectations", "mlflow", "streaming", "sklearn", "matplotlib")


def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.split(".")[0])
    return names


def test_definitions_load_without_heavy_libraries():
    code = f"import sys, orchestration.definitions as d; d.defs(); print([m for m in {HEAVY!r} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert out.stdout.strip().splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("layer", "above"),
    [("ml", {"dagster", "assets", "orchestration"}), ("assets", {"orchestration"})],
)
def test_layers_import_only_layers_below(layer: str, above: set[str]):
    wrong = {str(path): found for path in (ROOT / layer).rglob("*.py") if (found := imported(path) & above)}
    assert not wrong
