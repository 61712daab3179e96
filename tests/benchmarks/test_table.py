"""The table of benchmarks: a baseline that is not installed has a row, and no ratio."""

from __future__ import annotations

import sys
from io import StringIO
from types import SimpleNamespace

import pytest
from rich.console import Console

from benchmarks.__main__ import measure, table_of
from benchmarks.result import Result


def test_a_baseline_that_is_not_installed_has_a_row_without_a_ratio() -> None:
    measured = Result("search", "queries/s", 500.0, 250.0, "exact search")
    missing = Result("search", "queries/s", 500.0, None, "a graph", note="a library is not installed")
    assert (measured.ratio, missing.ratio) == (2.0, None)
    cells = {str(column.header): list(column.cells) for column in table_of([measured, missing]).columns}
    assert cells["baseline"] == ["250", ""] and cells["ratio"] == ["2.00", ""]
    assert cells["note"] == ["", "a library is not installed"]


def test_a_baseline_that_is_not_installed_is_named_in_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    missing = Result("search", "queries/s", 500.0, None, "a graph", note="a library: not installed")
    monkeypatch.setitem(sys.modules, "benchmarks.search", SimpleNamespace(run=lambda: [missing]))
    text = StringIO()
    assert measure(["search"], Console(file=text)) == ([missing], [])
    assert "    a library: not installed\n" in text.getvalue()
