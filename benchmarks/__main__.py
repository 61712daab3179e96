"""`make bench`: runs all benchmarks, or some by name, prints one table and writes bench.json under the Evergreen home.

Only ratios are meaningful: both sides are measured in the same run, under the same other load of the machine.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import pkgutil
import sys
import time
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

import benchmarks
from benchmarks.real_logs import NoRealLogs
from benchmarks.result import Result

NOT_BENCHMARKS = ("result", "real_logs")


def names() -> list[str]:
    """Return the names of the modules that have a `run() -> list[Result]`."""
    found = (module.name for module in pkgutil.iter_modules(benchmarks.__path__))
    return [name for name in found if name not in NOT_BENCHMARKS and not name.startswith("_")]


def short(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def format_ratio(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:.2f}"


def table_of(results: Iterable[Result]) -> Table:
    """One row per result."""
    table = Table(title="Ratios measured in this run")
    for column in ("benchmark", "unit", "ours", "baseline", "baseline is", "ratio", "floor", "note"):
        table.add_column(column, justify="right" if column in ("ours", "baseline", "ratio", "floor") else "left")
    for r in results:
        cells = (short(r.ours), short(r.baseline), r.baseline_name, format_ratio(r.ratio), short(r.floor), r.note)
        table.add_row(r.name, r.unit, *cells)
    return table


def measure(chosen: Sequence[str], console: Console) -> tuple[list[Result], list[str]]:
    """Run benchmarks one after the other.

    Returns:
        Their results, and the names of those that failed.
    """
    found: list[Result] = []
    failed = []
    for number, name in enumerate(chosen, 1):
        console.print(f"[{number}/{len(chosen)}] {name} ...", markup=False, highlight=False)
        began = time.perf_counter()
        try:
            results = importlib.import_module(f"benchmarks.{name}").run()
        except NoRealLogs as error:
            console.print(f"    skipped: {error}", markup=False, highlight=False)
            continue
        except Exception as error:  # one failure does not stop the other benchmarks
            failed.append(name)
            console.print(f"    failed: {type(error).__name__}: {error}", markup=False, highlight=False)
            continue
        found += results
        ratios = ", ".join(format_ratio(result.ratio) or "-" for result in results)
        for result in results:
            if result.baseline is None:
                console.print(f"    {result.note}", markup=False, highlight=False)
        console.print(f"    {time.perf_counter() - began:.0f} s; ratios {ratios}", markup=False, highlight=False)
    return found, failed


def quieten() -> None:
    """Silence warnings and logs of libraries."""
    warnings.simplefilter("ignore")
    os.environ.setdefault("PYTHONWARNINGS", "ignore")  # for processes that benchmarks start
    logging.basicConfig(level=logging.ERROR)
    for name in ("torch.fx._symbolic_trace", "torchrec", "mlflow", "py4j", "alembic", "dagster"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


@click.command()
@click.argument("chosen", nargs=-1, metavar="[NAME]...")
@click.option("--list", "listed", is_flag=True, help="Print the names of the benchmarks.")
def main(chosen: Sequence[str], listed: bool) -> None:
    """Measure speed claims as ratios: all of them, or only the benchmarks NAME."""
    if listed:
        click.echo("\n".join(names()))
        return
    if unknown := sorted(set(chosen) - set(names())):
        raise click.BadParameter(f"no benchmark {', '.join(unknown)}; there are {', '.join(names())}")
    quieten()
    console = Console(width=None if sys.stdout.isatty() else 200)  # in a file, the table has its full width
    found, failed = measure(chosen or names(), console)
    console.print(table_of(found))
    home = Path(os.environ.get("EVERGREEN_HOME") or ".evergreen")
    home.mkdir(parents=True, exist_ok=True)
    rows = [{**asdict(result), "ratio": result.ratio} for result in found]
    (home / "bench.json").write_text(json.dumps(rows, indent=1))
    console.print(f"Written to {home / 'bench.json'}")
    if failed:
        raise click.ClickException(f"failed: {', '.join(failed)}; run `make bench ONLY={failed[0]}` to see one alone")


if __name__ == "__main__":
    main()
