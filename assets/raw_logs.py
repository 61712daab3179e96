"""Typed rows of the day's log in time order, and its malformed lines in quarantine."""

from pathlib import Path
from typing import Any

import dagster as dg

from assets.days import each_day
from assets.policy import SPARK_POOL, daily_asset
from assets.preflight import check_spec, run_preflight
from assets.resources import LakeResource, LandingResource, SparkResource
from ml import stages
from ml.catalog.spec import DatasetSpec


def build(spec: DatasetSpec) -> dg.AssetsDefinition:
    """Build the asset of one dataset."""

    @daily_asset(
        spec,
        stages.RAW_LOGS,
        kinds={"parquet", "spark"},
        pool=SPARK_POOL,
        check_specs=[check_spec(spec)],
        description=f"{spec.description} The day's rows as Parquet, in time order; malformed lines in quarantine.",
    )
    def raw_logs(
        context: dg.AssetExecutionContext, lake: LakeResource, landing: LandingResource, spark: SparkResource
    ) -> dg.MaterializeResult:
        from ml.logs.ingest import ingest_day

        folder = landing.folder(spec.name)
        checked = run_preflight(context, spec, folder)
        runner = spark.runner()

        def work(day: str) -> dict[str, Any]:
            if spec.simulation:
                from ml.logs.synthetic.simulate import write_day

                write_day(spec.log, day, Path(folder))
            done = ingest_day(spec.log, day, folder, lake.open(), runner)
            reasons = "\n".join(f"| {reason} | {count:,} |" for reason, count in sorted(done.reasons.items()))
            return {
                "dagster/row_count": done.rows,
                "quarantined": done.quarantined,
                "out_of_range": done.out_of_range,
                "reasons": dg.MetadataValue.md(f"| reason | lines |\n|---|---|\n{reasons or '| none | 0 |'}"),
                "files": done.files,
                "path": dg.MetadataValue.path(str(lake.open().partition(stages.RAW_LOGS, spec.name, day))),
            }

        return each_day(context, work, check_results=[checked])

    return raw_logs
