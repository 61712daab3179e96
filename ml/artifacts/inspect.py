"""Shows the collisionless tables of a stored model: `python -m ml.artifacts.inspect --help`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import click
import numpy as np
import pandas as pd
import torch

from ml.artifacts.snapshot import OPTIMIZER, TABLES, below, load_tensors, read_state

COLUMNS = ("id", "count", "seen", "norm")


def tables_of(folder: Path) -> dict[str, pd.DataFrame]:
    """Read the collisionless tables of a snapshot, written by any number of ranks.

    Args:
        folder: A trained day, a checkpoint, or a bundle of a model as trained.

    Returns:
        One frame for each table, in the order of ids: `id`, `norm` of the weights and, if the folder has training state,
        `count` and `seen` (UTC).

    Raises:
        FileNotFoundError: The folder has no model.
        DamagedSnapshot: A file is missing, or has changed since it was written.
    """
    has_optimizer = any(name.startswith(OPTIMIZER) for name in read_state(folder)["files"])
    shard = load_tensors(folder, for_training=has_optimizer)
    found = {}
    for path, tables in shard.sharded_by_id.items():
        columns = below(shard.weights | (shard.optimizer or {}), f"{TABLES}{path}/")
        found |= {table: _frame(columns, table) for table in tables}
    return found


def _frame(tensors: Mapping[str, torch.Tensor], table: str) -> pd.DataFrame:
    columns = {"id": tensors[f"{table}.id"].numpy()}
    if f"{table}.seen" in tensors:
        columns["count"] = tensors[f"{table}.count"].numpy()
        columns["seen"] = pd.to_datetime(tensors[f"{table}.seen"].numpy(), unit="s", utc=True)  # type: ignore[assignment]
    columns["norm"] = np.linalg.norm(tensors[f"{table}.weight"].numpy(), axis=1)
    return pd.DataFrame(columns)


@click.command(help="Show the collisionless tables of a stored model: <home>/tuned_models/<model>/<dataset>/<day>.")
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--table", help="Show only this table.")
@click.option("--by", type=click.Choice(COLUMNS), default="count", show_default=True, help="Column to sort by, largest first.")
@click.option("--rows", default=10, show_default=True, help="Rows to show of each table.")
@click.option("--parquet", type=click.Path(file_okay=False, path_type=Path), help="Write each table to a file in this folder.")
def main(folder: Path, table: str | None, by: str, rows: int, parquet: Path | None) -> None:
    """Print the tables of a stored model, or write them to Parquet files."""
    tables = tables_of(folder)
    if table and table not in tables:
        raise click.BadParameter(f"the model has no table {table!r}; it has {sorted(tables)}", param_hint="--table")
    for name, frame in tables.items():
        if table not in (None, name):
            continue
        if parquet:
            parquet.mkdir(parents=True, exist_ok=True)
            frame.to_parquet(parquet / f"{name}.parquet", index=False)
            continue
        shown = frame.sort_values(by if by in frame else "norm", ascending=False).head(rows)
        click.echo(f"{name}: {len(frame):,} rows\n{shown.to_string(index=False)}\n")


if __name__ == "__main__":
    main()
