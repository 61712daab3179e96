"""The structure of the code: layers, the order of packages, and no import cycles between modules or packages."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.paths import ROOT

LAYERS = ("ml", "assets", "orchestration")  # each may import those before it
GROUND = (
    *(
        "compute",
        "days",
        "disk",
        "distributed",
        "give_way",
        "hashing",
        "lake",
        "locks",
        "metrics",
        "parquet",
        "schema",
        "stages",
    ),
)
PACKAGES = (  # packages of ml, in the same order; GROUND comes before them, and its modules may import each other
    *("catalog", "http", "tuning", "logs", "features", "joiner", "datasets", "embeddings", "recipes", "models", "artifacts"),
    *("retrieval", "training", "evaluation", "sync", "online", "serving", "batch", "export", "quality", "preflight"),
    *("tracking", "advisor", "trials", "studies", "loop", "sketch"),
)


def modules() -> dict[str, Path]:
    """Files of all modules of the layers, by dotted name."""
    files = (file for layer in LAYERS for file in (ROOT / layer).rglob("*.py"))
    return {".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): file for file in files}


def imported(tree: ast.AST, known: dict[str, Path]) -> Iterator[str]:
    """Yields the modules of the layers that a module imports, also inside functions, except for type checking."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            yield from (name if name in known else node.module for name in names if name in known or node.module in known)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        yield from imported(node, known)


def imports() -> dict[str, set[str]]:
    known = modules()
    return {name: set(imported(ast.parse(file.read_text()), known)) - {name} for name, file in known.items()}


def cycles(graph: dict[str, set[str]]) -> set[frozenset[str]]:
    """Return the strongly connected components of more than one node."""
    reach: dict[str, set[str]] = {}
    for start in graph:
        found, ahead = set[str](), list(graph[start])
        while ahead:
            node = ahead.pop()
            if node not in found:
                found.add(node)
                ahead += graph.get(node, ())
        reach[start] = found
    return {frozenset({a} | {b for b in reach[a] if a in reach.get(b, ())}) for a in graph if a in reach[a]}


def package_of(module: str) -> str:
    """Return the package of a module: `ml.logs` for `ml.logs.text.parse`, `ml.lake` for `ml.lake`."""
    return ".".join(module.split(".")[:2])


def test_modules_have_no_import_cycles() -> None:
    assert not cycles(imports())


def test_packages_have_no_import_cycles() -> None:
    graph: dict[str, set[str]] = defaultdict(set)
    for module, targets in imports().items():
        graph[package_of(module)] |= {package_of(target) for target in targets} - {package_of(module)}
    assert not cycles(graph)


@pytest.mark.parametrize("layer", LAYERS)
def test_layers_import_only_those_below(layer: str) -> None:
    allowed = LAYERS[: LAYERS.index(layer) + 1]
    above = {
        (module, target)
        for module, targets in imports().items()
        for target in targets
        if module.split(".")[0] == layer and target.split(".")[0] not in allowed
    }
    assert not above


def test_private_modules_of_dagster_are_not_imported() -> None:
    found = [
        str(file.relative_to(ROOT))
        for folder in (*LAYERS, "benchmarks", "tests")
        for file in (ROOT / folder).rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in [getattr(node, "module", None) or "", *(alias.name for alias in node.names)]
        if name.startswith("dagster") and "._" in name
    ]
    assert not found


def test_logs_do_not_import_the_dataset_spec() -> None:
    """`ml.logs` reads a `LogSpec`, so that one dataset can have several logs."""
    targets = {target for module, targets in imports().items() if package_of(module) == "ml.logs" for target in targets}
    assert not targets & {"ml.catalog.spec", "ml.catalog.features", "ml.catalog.load"}


def test_packages_of_ml_import_only_those_below() -> None:
    order = {f"ml.{name}": rank for rank, name in enumerate(("", *PACKAGES))} | {f"ml.{name}": 0 for name in GROUND}
    found = [
        (a, b) for a, targets in imports().items() for b in targets if a.startswith("ml.") and package_of(a) != package_of(b)
    ]
    assert {package_of(module) for module in modules() if module.startswith("ml.")} <= set(order), "name its place above"
    assert not [pair for pair in found if order[package_of(pair[0])] < order[package_of(pair[1])]]
