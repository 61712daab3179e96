"""Reads a day back from the lake: its raw rows and its quarantined lines. `ml.logs.ingest` writes them."""

from __future__ import annotations

import pyarrow as pa

from ml.lake import Lake
from ml.parquet import read_parquet
from ml.stages import RAW_LOGS


def raw_parts(lake: Lake, dataset: str, day: str, stage: str = RAW_LOGS) -> list[str]:
    """Lists the Parquet files of a day's rows, in event-time order.

    Args:
        lake: The lake.
        dataset: Name of the dataset.
        day: The partition key.
        stage: Stage of the log (`LogSpec.stage`).

    Raises:
        MissingPartition: The day has not been ingested.
    """
    folder = lake.require(stage, dataset, day) / "rows"
    return sorted(str(path) for path in folder.iterdir() if path.name.endswith(".parquet"))


def raw_table(lake: Lake, dataset: str, day: str, stage: str = RAW_LOGS) -> pa.Table:
    """Reads a day's rows [N]: `event_time` and the source's columns, in event-time order. Arguments as for `raw_parts`."""
    return pa.concat_tables([read_parquet(path) for path in raw_parts(lake, dataset, day, stage)])


def quarantine_table(lake: Lake, dataset: str, day: str, stage: str = RAW_LOGS) -> pa.Table:
    """Reads a day's quarantined lines [Q]: `file`, `line`, `reason`, `text`. Arguments as for `raw_parts`."""
    return read_parquet(lake.require(stage, dataset, day) / "quarantine.parquet")
