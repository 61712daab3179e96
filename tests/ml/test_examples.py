"""The examples in docstrings run, and print the output that they show."""

from __future__ import annotations

import doctest
from importlib import import_module
from pathlib import Path

import pytest

from tests.helpers.paths import ROOT

FILES = sorted(file.relative_to(ROOT) for file in (ROOT / "ml").rglob("*.py") if ">>> " in file.read_text())


@pytest.mark.parametrize("file", FILES, ids=str)
def test_examples_of_docstrings(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    tried = doctest.testmod(import_module(".".join(file.with_suffix("").parts)))
    assert not tried.failed
