"""A snapshot's tables to look at, also from the command line: `python -m ml.embeddings.inspect --help`.

Reads the files of `ml.embeddings.collisionless.snapshots` and the day's model in the lake alike: whatever holds a store's
columns.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import click
import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file

from ml.embeddings.collisionless.snapshots import shard_files

COLUMNS = ("id", "count", "seen", "norm")


def tables_of(folder: Path) -> dict[str, pd.DataFrame]:
    """A frame by table: id, count, seen (UTC), norm of the weights; in the order of ids. Raises `FileNotFoundError`."""
    paths = shard_files(folder) if list(folder.glob("shard-*")) else sorted(folder.glob("*.safetensors"))
    if not paths:
        raise FileNotFoundError(f"{folder}: no safetensors here; give the folder of a snapshot, or of a day's model")
    found: dict[str, list[pd.DataFrame]] = {}
    for tensors in _by_shard([load_file(path) for path in paths]):
        for name in (name.removesuffix(".id") for name in tensors if name.endswith(".id")):
            found.setdefault(name.rpartition("/")[2], []).append(_frame(tensors, name))
    return {name: pd.concat(parts).sort_values("id", ignore_index=True) for name, parts in found.items()}


def _by_shard(files: list[dict[str, torch.Tensor]]) -> list[dict[str, torch.Tensor]]:
    """A day's model has weights in one file and the rest in another; shards have both in each."""
    whole = all(any(name.endswith(".seen") for name in tensors) for tensors in files)
    return files if whole else [{name: tensor for tensors in files for name, tensor in tensors.items()}]


def _frame(tensors: Mapping[str, torch.Tensor], table: str) -> pd.DataFrame:
    columns = {"id": tensors[f"{table}.id"].numpy()}
    if f"{table}.seen" in tensors:
        columns["count"] = tensors[f"{table}.count"].numpy()
        columns["seen"] = pd.to_datetime(tensors[f"{table}.seen"].numpy(), unit="s", utc=True)  # type: ignore[assignment]
    columns["norm"] = np.linalg.norm(tensors[f"{table}.weight"].numpy(), axis=1)
    return pd.DataFrame(columns)


@click.command(
    help="Look at the collisionless tables of a snapshot, or of a day's model: <home>/tuned_models/<model>/<dataset>/<day>."
)
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--table", help="Only this one.")
@click.option(
    "--by", type=click.Choice(COLUMNS), default="count", show_default=True, help="What to sort by, the largest first."
)
@click.option("--rows", default=10, show_default=True, help="How many to show of each table.")
@click.option("--parquet", type=click.Path(file_okay=False, path_type=Path), help="Write the tables here, a file for each.")
def main(folder: Path, table: str | None, by: str, rows: int, parquet: Path | None) -> None:
    tables = tables_of(folder)
    if table and table not in tables:
        raise click.BadParameter(f"no table {table!r} here; there are {sorted(tables)}", param_hint="--table")
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
