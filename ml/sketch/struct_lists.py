"""Reads lists of structs of Parquet, as texts of JSON like lists of objects."""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import islice

import pyarrow as pa
import pyarrow.parquet as pq
from upath import UPath

from ml.logs.sources import LogFile
from ml.logs.text.value_types import column_at
from ml.sketch.columns import Column

ROWS = 1000  # rows of the file that are read


def columns_of_struct_lists(paths: Mapping[str, tuple[str, ...]], file: LogFile) -> list[Column]:
    """Read the first lists of structs of a file.

    Args:
        paths: Name of a column -> the fields that lead to its lists.
        file: A Parquet file.

    Returns:
        A nested column for each.
    """
    if not paths:
        return []
    with UPath(file.url).open("rb") as raw:
        parquet, roots = pq.ParquetFile(raw), {path[0] for path in paths.values()}
        schema = pa.schema([field for field in parquet.schema_arrow if field.name in roots])
        table = pa.Table.from_batches(islice(parquet.iter_batches(ROWS, columns=schema.names), 1), schema)
    columns: list[Column] = []
    for name, path in paths.items():
        texts = tuple(json.dumps(value, default=str) for value in column_at(table, path).to_pylist() if value is not None)
        columns.append(Column(name, "string", table.num_rows, texts, nested=True))
    return columns
