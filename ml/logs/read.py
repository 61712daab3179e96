"""Reading back: a day's raw rows and quarantine from the lake, and whole side tables from the landing folder.

Writing a day is `ml.logs.ingest`.
"""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq
from upath import UPath

from ml.catalog.log_spec import RAW_LOGS
from ml.catalog.reading import Source
from ml.lake import Lake
from ml.logs.parsed_blocks import read_records
from ml.logs.quarantine import Quarantine
from ml.logs.sources import find_files
from ml.logs.text.layout import Layout


def read_table(source: Source, folder: str | UPath) -> tuple[pa.Table, Quarantine]:
    """All rows of a source, in file and line order, and the lines that are none: for tables small enough to hold.

    Raises `NoLogs` where nothing matches, `WrongFile` where a file lacks a column.
    """
    tables, bad = [Layout.declared(source).schema.empty_table()], []
    for file in find_files(source, folder):
        line = 1
        for records in read_records(source, file):
            tables.append(records.table)
            lines = records.bad.tolist()
            texts = [records.text_of(number) for number in lines]
            bad.append(Quarantine.of(file.name, [line + number for number in lines], records.reasons, texts))
            line += records.extent
    return pa.concat_tables(tables).combine_chunks(), Quarantine.concat(bad)


def raw_parts(lake: Lake, dataset: str, day: str, stage: str = RAW_LOGS) -> list[str]:
    """Parquet files of a day's rows, in event-time order. Raises `MissingPartition`."""
    folder = lake.require(stage, dataset, day) / "rows"
    return sorted(str(path) for path in folder.iterdir() if path.name.endswith(".parquet"))


def raw_table(lake: Lake, dataset: str, day: str, stage: str = RAW_LOGS) -> pa.Table:
    """A day's rows, [N]: event_time and the source's columns, in event-time order. Raises `MissingPartition`."""
    return pa.concat_tables([read_parquet(path) for path in raw_parts(lake, dataset, day, stage)])


def quarantine_table(lake: Lake, dataset: str, day: str, stage: str = RAW_LOGS) -> pa.Table:
    """A day's quarantined lines, [Q]: file, line, reason, text; in file and line order. Raises `MissingPartition`."""
    return read_parquet(str(lake.require(stage, dataset, day) / "quarantine.parquet"))


def read_parquet(path: str) -> pa.Table:
    with UPath(path).open("rb") as file:
        return pq.read_table(file)
