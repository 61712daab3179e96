"""Cached kernels follow every source that they were compiled from, and nothing else."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ml.compute.kernel_cache import KEEP_SECONDS
from tests.helpers.paths import ROOT

SOURCES = {
    "ml/constants.py": "SHIFT = 1\n",
    "ml/inner.py": """
from ml.compute.kernel_cache import jit
from ml.constants import (
    SHIFT,  # a constant that is compiled in
)

@jit(inline="always")
def inner(x):
    return x + SHIFT
""",
    "ml/outer.py": """
from ml.compute.kernel_cache import jit
from ml import inner as _module
from ml.inner import inner

@jit
def outer(x):
    return 10 * inner(x)
""",
    "ml/other.py": """
from ml.compute.kernel_cache import jit

@jit(nogil=True)
def other(x):
    return x
""",
}
RUN = """
from ml.outer import outer
from ml.other import other
print(outer(1), other(7), *(sum(kernel.stats.cache_hits.values()) for kernel in (outer, other)))
"""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A package of three kernels, two of which depend on each other."""
    root = tmp_path / "tree"
    for name, source in SOURCES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(source)
    (root / "ml" / "compute").mkdir()
    for name in ("ml/__init__.py", "ml/compute/__init__.py"):
        (root / name).touch()
    shutil.copy(ROOT / "ml/compute/kernel_cache.py", root / "ml/compute/kernel_cache.py")
    return root


def run(root: Path, code: str = RUN, **environment: str) -> list[int]:
    given = {name: value for name, value in os.environ.items() if not name.startswith("NUMBA")}
    given |= {"PYTHONPATH": str(root), "HOME": str(root), "XDG_CACHE_HOME": str(root / "user"), **environment}
    said = subprocess.run([sys.executable, "-c", code], env=given, cwd=root, capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stderr
    return [int(word) for word in said.stdout.split()]


def replace(path: Path, old: str, new: str) -> None:
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


@pytest.mark.slow
@pytest.mark.parametrize(("file", "old", "new"), [("inner", "x + SHIFT", "x * SHIFT + 4"), ("constants", "= 1", "= 4")])
def test_a_change_of_what_a_kernel_uses_is_followed(tree: Path, file: str, old: str, new: str) -> None:
    assert run(tree) == [20, 7, 0, 0]
    assert run(tree) == [20, 7, 1, 1], "unchanged sources are found in the cache"
    replace(tree / f"ml/{file}.py", old, new)
    assert run(tree) == [50, 7, 0, 1], "what does not depend on the change stays cached"
    assert run(tree) == [50, 7, 1, 1]


def test_folders_of_older_sources_are_deleted_after_a_while(tree: Path) -> None:
    run(tree)
    kernels = tree / "ml/__pycache__/kernels/ml.outer"
    (first,) = kernels.iterdir()
    replace(tree / "ml/inner.py", "x + SHIFT", "x + SHIFT + 3")
    run(tree)
    assert len(list(kernels.iterdir())) == 2, "another process may still be using it"
    old = first.stat().st_mtime - KEEP_SECONDS - 60
    os.utime(first, (old, old))
    assert run(tree) == [50, 7, 1, 1]
    (left,) = kernels.iterdir()
    assert left != first


def test_numba_cache_dir_is_respected(tree: Path, tmp_path: Path) -> None:
    run(tree, NUMBA_CACHE_DIR=str(tmp_path / "given"))
    assert run(tree, NUMBA_CACHE_DIR=str(tmp_path / "given")) == [20, 7, 1, 1]
    assert list((tmp_path / "given").rglob("*.nbi")) and not (tree / "ml/__pycache__/kernels").exists()


def test_a_package_that_cannot_be_written_uses_the_folder_of_the_user(tree: Path) -> None:
    (tree / "ml/__pycache__").touch()  # a file where the folder would be: permissions do not stop root
    run(tree)
    assert run(tree) == [20, 7, 1, 1]
    assert list((tree / "user").rglob("*.nbi"))


def test_kernels_run_where_nothing_can_be_written(tree: Path) -> None:
    (tree / "ml/__pycache__").touch()
    (tree / "user").touch()
    for _ in range(2):
        assert run(tree, NUMBA_CACHE_DIR=str(tree / "user")) == [20, 7, 0, 0]
    assert not list(tree.rglob("*.nbi"))


def test_the_lakes_folder_is_not_needed(tree: Path) -> None:
    assert run(tree, EVERGREEN_HOME="/nowhere") == [20, 7, 0, 0]
    assert run(tree, EVERGREEN_HOME="/nowhere") == [20, 7, 1, 1]


def test_the_map_of_ids_follows_its_hash_function(tmp_path: Path) -> None:
    """The same with the real package: a cached map with another hash would not find its ids."""
    shutil.copytree(ROOT / "ml", tmp_path / "ml", ignore=shutil.ignore_patterns("__pycache__"))
    code = """
import numpy as np
from ml.embeddings.collisionless import hash_map
ids = hash_map.HashMap()
ids.insert(np.array([0]), np.array([5]), np.array([1]))
print(np.flatnonzero(ids.slots[:, 1] != -1)[0], hash_map.insert_many.stats.cache_hits.total())
"""
    first, again = run(tmp_path, code), run(tmp_path, code)
    assert first == [again[0], 0] and again[1] == 1
    with (tmp_path / "ml/hashing.py").open("a") as hashing:
        hashing.write("\n\n@jit(inline='always')\ndef mix64(x):\n    return x + np.uint64(77)\n")
    changed = run(tmp_path, code)
    assert changed[0] != first[0] and changed[1] == 0


def test_no_kernel_is_cached_any_other_way() -> None:
    files = [file for folder in ("ml", "assets", "orchestration", "benchmarks") for file in (ROOT / folder).rglob("*.py")]
    assert len(files) > 100
    own = ROOT / "ml/compute/kernel_cache.py"
    found = [file for file in files if re.search(r"\bn?jit\(.*\bcache *=", file.read_text()) and file != own]
    assert not found, "use ml.compute.kernel_cache.jit"
