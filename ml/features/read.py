"""Reading the feature table of a day: for data sets, checks, evaluation. Writing it is `ml.features.clean`."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
from upath import UPath

from ml.catalog.spec import DatasetSpec
from ml.features.clean import StaleFeatures
from ml.lake import Lake
from ml.parquet import read_parquet
from ml.stages import CLEANED_FEATURES


def feature_parts(lake: Lake, dataset: str, day: str) -> list[str]:
    """Parquet files of a day's features, in event-time order. Raises `MissingPartition`."""
    folder = lake.require(CLEANED_FEATURES, dataset, day) / "rows"
    return sorted(str(path) for path in folder.iterdir() if path.name.endswith(".parquet"))


def feature_table(lake: Lake, spec: DatasetSpec, day: str, columns: Sequence[str] | None = None) -> pa.Table:
    """A day's features, [N] rows of `arrow_schema(spec)` (or `columns` of it), in event-time order.

    Raises `MissingPartition`, and `StaleFeatures` where they were made under another spec.
    """
    found = lake.manifest(CLEANED_FEATURES, spec.name, day)["fingerprint"]
    if found != spec.fingerprint:
        raise StaleFeatures(
            f"{spec.name}/{CLEANED_FEATURES} of {day} was made under another spec (fingerprint {found}, now "
            f"{spec.fingerprint}); materialise {CLEANED_FEATURES} of that day again"
        )
    return pa.concat_tables([read_parquet(UPath(path), columns) for path in feature_parts(lake, spec.name, day)])
