"""Training data of the day: MDS blocks of feature rows, split into train, validation and test."""

from typing import Any

import dagster as dg

from assets.days import each_day
from assets.policy import SPARK_POOL, daily_asset, key
from assets.resources import LakeResource, SparkResource
from ml import stages
from ml.catalog.spec import DatasetSpec


def build(spec: DatasetSpec) -> dg.AssetsDefinition:
    """Build the asset of one dataset."""

    @daily_asset(
        spec,
        stages.MDS_DATASETS,
        kinds={"spark", "mds"},
        deps=[key(spec, stages.CLEANED_FEATURES)],
        pool=SPARK_POOL,
        description="Feature rows in MDS blocks, permuted within windows of time; splits train, validation and test.",
    )
    def mds_datasets(context: dg.AssetExecutionContext, lake: LakeResource, spark: SparkResource) -> dg.MaterializeResult:
        from ml.datasets.write import write_day

        runner = spark.runner()

        def work(day: str) -> dict[str, Any]:
            done = write_day(spec, day, lake.open(), runner)
            return {
                "dagster/row_count": sum(done.rows.values()),
                "splits": dg.MetadataValue.json(dict(done.rows)),
                "blocks": sum(done.blocks.values()),
                "bytes": done.bytes,
                "path": dg.MetadataValue.path(str(lake.open().partition(stages.MDS_DATASETS, spec.name, day))),
            }

        return each_day(context, work)

    return mds_datasets
