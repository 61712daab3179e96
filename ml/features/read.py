"""Reading of a day's feature table, for training data, checks and evaluation. `ml.features.clean` writes it."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
from upath import UPath

from ml.catalog.spec import DatasetSpec
from ml.lake import Lake
from ml.parquet import read_parquet
from ml.schema import arrow_schema
from ml.stages import CLEANED_FEATURES


def feature_parts(lake: Lake, spec: DatasetSpec, day: str) -> list[UPath]:
    """Returns the Parquet files of a day's features, in event-time order.

    Args:
        lake: Where the features are stored.
        spec: The dataset.
        day: The partition key.

    Raises:
        MissingPartition: The day's features are not in the lake.
        StalePartition: They were made under another version of the catalog entry.
    """
    folder = lake.require(CLEANED_FEATURES, spec.name, day, fingerprint=spec.fingerprint) / "rows"
    return sorted((path for path in folder.iterdir() if path.name.endswith(".parquet")), key=lambda path: path.name)


def feature_table(lake: Lake, spec: DatasetSpec, day: str, columns: Sequence[str] | None = None) -> pa.Table:
    """Reads a day's features, [N] rows of `arrow_schema(spec)` in event-time order.

    Args:
        lake: Where the features are stored.
        spec: The dataset.
        day: The partition key.
        columns: Names of the columns to read; all by default.

    Raises:
        MissingPartition: The day's features are not in the lake.
        StalePartition: They were made under another version of the catalog entry.
    """
    return pa.concat_tables([read_parquet(path, columns) for path in feature_parts(lake, spec, day)])


def check_file(spec: DatasetSpec, path: UPath, found: pa.Schema, columns: Sequence[str]) -> None:
    """Checks that a Parquet file holds `columns` of the spec's feature table.

    Args:
        spec: The dataset.
        path: The file, for the message.
        found: The schema of the file, with its metadata.
        columns: Names of the required columns.

    Raises:
        ValueError: A column is missing or has another type, or the file belongs to another table.
    """
    expected = arrow_schema(spec)
    if found.metadata == expected.metadata and all(expected.field(name) in found for name in columns):
        return
    key = b"evergreen.fingerprint"
    written = (found.metadata or {}).get(key, b"none").decode()
    raise ValueError(
        f"{path}: not the feature table of {spec.name}: expected the fingerprint {spec.fingerprint} and the columns "
        f"{list(columns)}, found {written} and {found.names}. "
        f"Materialise {spec.name}/{CLEANED_FEATURES} of the day again"
    )
