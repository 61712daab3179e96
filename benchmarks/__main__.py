"""`make bench`: runs every benchmark, prints one table, and writes bench.json under the Evergreen home.

Only ratios count: both sides are measured in the same run, on whatever else the machine is doing.
"""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
import sys
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

import benchmarks
from benchmarks.result import Result


def names() -> list[str]:
    found = (module.name for module in pkgutil.iter_modules(benchmarks.__path__))
    return [name for name in found if name != "result" and not name.startswith("_")]


def short(figure: float | None) -> str:
    return "" if figure is None else f"{figure:,.0f}" if abs(figure) >= 100 else f"{figure:.3g}"


def main(chosen: list[str]) -> None:
    console = Console(width=None if sys.stdout.isatty() else 200)  # a file is as wide as the table
    found: list[Result] = []
    for name in chosen or names():
        console.print(f"[dim]{name} ...[/dim]")
        found += importlib.import_module(f"benchmarks.{name}").run()
    table = Table(title="Ratios measured in this run")
    for column in ("what", "unit", "ours", "baseline", "of", "ratio", "floor", "note"):
        table.add_column(column, justify="right" if column in ("ours", "baseline", "ratio", "floor") else "left")
    for r in found:
        figures = (short(r.ours), short(r.baseline), r.baseline_name, f"{r.ratio:.2f}", short(r.floor), r.note)
        table.add_row(r.name, r.unit, *figures)
    console.print(table)
    home = Path(os.environ.get("EVERGREEN_HOME") or ".evergreen")
    home.mkdir(parents=True, exist_ok=True)
    rows = [{**asdict(r), "ratio": r.ratio} for r in found]
    (home / "bench.json").write_text(json.dumps(rows, indent=1))
    console.print(f"Written to {home / 'bench.json'}")


if __name__ == "__main__":
    main(sys.argv[1:])
