"""Features of one day of a log, computed in each way that users meet: by Spark, by one process, and by rows sent to a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ml.artifacts.raw_columns import RawColumns, raw_columns
from ml.catalog.spec import DatasetSpec
from ml.compute.runner import LocalRunner, Runner, SparkRunner
from ml.features.clean import clean_day
from ml.features.fused import FusedTransform
from ml.features.read import feature_table
from ml.lake import Lake
from ml.logs.ingest import ingest_day
from ml.logs.read import raw_table
from ml.schema import FeatureSchema
from tests.helpers.shop_features import digests


def features_in_every_way(spec: DatasetSpec, folder: Path, day: str, spark: Any = None) -> tuple[pa.Table, pa.Table, Lake]:
    """Ingest and clean a day by Spark and by one process, and score its rows as a client sends them. All must agree.

    Args:
        spec: A dataset without vocabularies.
        folder: The landing folder.
        day: The partition key.
        spark: A session; without one only the other two ways are compared.

    Returns:
        The raw rows [N], their features [N], and the lake of the single process.
    """
    runners: dict[str, Runner] = {"local": LocalRunner()}
    if spark:
        runners["spark"] = SparkRunner(spark)
    lakes = {name: Lake.at(folder.parent / f"{folder.name}-{name}") for name in runners}
    for name, lake in lakes.items():
        ingest_day(spec.log, day, str(folder), lake, runners[name])
        clean_day(spec, day, lake, str(folder), runners[name], spark if name == "spark" else None)
    for stage in ("raw_logs", "cleaned_features"):
        found = [digests(lake.partition(stage, spec.name, day)) for lake in lakes.values()]
        assert all(one == found[0] for one in found), stage
    rows = raw_table(lakes["local"], spec.name, day)
    features = feature_table(lakes["local"], spec, day)
    assert_scored_equally(spec, rows, features)
    return rows, features, lakes["local"]


def assert_scored_equally(spec: DatasetSpec, rows: pa.Table, features: pa.Table) -> None:
    """Check that rows as a client sends them, as Arrow and as pandas, have the features of the feature table."""
    sent = rows.select([name for name in rows.column_names if name in raw_columns(spec)])
    schema, n = FeatureSchema.of(spec), len(rows)
    # dense: [N, I]; ids: of each single-valued feature N, then those of multi-valued ones
    dense = [features[name].to_numpy() for name in schema.dense]
    lists = [features[name].combine_chunks() for name in schema.multi]
    ids = [features[name].to_numpy() for name in schema.single] + [column.flatten().to_numpy() for column in lists]
    lengths = [np.ones(n, np.int32) for _ in schema.single] + [column.value_lengths().to_numpy() for column in lists]
    plain = pa.RecordBatch.from_pylist(sent.to_pylist()) if sent.num_columns else sent.combine_chunks().to_batches()[0]
    for batch in (plain, sent.to_pandas()):
        got = FusedTransform(spec)(RawColumns(spec)(batch))
        assert np.array_equal(got.dense, np.stack(dense, 1) if dense else np.empty((n, 0), np.float32))
        assert np.array_equal(got.ids, np.concatenate(ids))
        assert np.array_equal(got.lengths, np.concatenate(lengths))
