"""Features of the day's examples: dense float32 and sparse 64-bit ids, computed by the transforms of the catalog entry."""

from collections.abc import Mapping
from math import ceil
from typing import TYPE_CHECKING, Any

import dagster as dg

from assets.days import each_day
from assets.partitions import days_before
from assets.policy import SPARK_POOL, daily_asset, key
from assets.resources import LakeResource, LandingResource, SparkResource
from assets.tables import table
from ml import stages
from ml.catalog.spec import DatasetSpec

if TYPE_CHECKING:
    from ml.features.side_tables import JoinedTable


def build(spec: DatasetSpec) -> dg.AssetsDefinition:
    """Build the asset of one dataset."""

    @daily_asset(
        spec,
        stages.CLEANED_FEATURES,
        kinds={"parquet", "spark"},
        deps=_deps(spec),
        pool=SPARK_POOL,
        description="Dense and sparse features of the examples, in time order. Vocabularies and negatives use earlier events.",
    )
    def cleaned_features(
        context: dg.AssetExecutionContext, lake: LakeResource, landing: LandingResource, spark: SparkResource
    ) -> dg.MaterializeResult:
        from ml.features.clean import clean_day
        from ml.schema import arrow_schema

        folder, runner, session = landing.folder(spec.name), spark.runner(), spark.session()
        columns = [dg.TableColumn(field.name, str(field.type)) for field in arrow_schema(spec)]

        def work(day: str) -> dict[str, Any]:
            done = clean_day(spec, day, lake.open(), folder, runner, session)
            return {
                "dagster/row_count": done.rows,
                "dagster/column_schema": dg.TableSchema(columns),
                "positives": done.positives,
                "negatives": done.negatives,
                "joins": _joins(done.joins),
                **{f"match_rate_{n}": of.matches.rate for n, of in enumerate(done.joins.values()) if of.matches.keyed},
                "without_candidate": done.without_candidate,
                "label_rate": done.label_rate,
                **{f"label_rate_{name}": rate for name, rate in done.further_rates.items()},
                "mean_sample_rate": done.mean_sample_rate,
                "vocabulary_ids": dg.MetadataValue.json({name: size.ids for name, size in done.vocabularies.items()}),
                "path": dg.MetadataValue.path(str(lake.open().partition(stages.CLEANED_FEATURES, spec.name, day))),
            }

        return each_day(context, work)

    return cleaned_features


def _joins(joins: "Mapping[str, JoinedTable]") -> dg.TableMetadataValue:
    """One row per side table, in the order of the catalog entry's `join`."""
    names = ("side table", "match rate", "rows", "malformed", "reasons", "strategy")
    columns = dict.fromkeys(names, "string") | {"rows": "int", "malformed": "int"}
    rows = (
        {
            "side table": name,
            "match rate": "no keys" if joined.matches.rate is None else f"{joined.matches.rate:.4f}",
            "rows": joined.rows,
            "malformed": joined.quarantined,
            "reasons": ", ".join(f"{count:,} x {reason}" for reason, count in joined.reasons.items()) or "–",
            "strategy": joined.strategy,
        }
        for name, joined in joins.items()
    )
    return table(columns, rows)


def _deps(spec: DatasetSpec) -> list[dg.AssetDep]:
    negatives = spec.label.negatives
    look_back = ceil(negatives.look_back_hours / 24) if negatives else 0
    deps = [dg.AssetDep(key(spec, spec.examples_log.stage), partition_mapping=days_before(look_back, 0))]
    if spec.feature_tables:
        days = days_before(ceil(spec.table_look_back_hours / 24), 0)
        deps.append(dg.AssetDep(key(spec, stages.FEATURE_TABLES), partition_mapping=days))
    if any(sparse.vocabulary for sparse in spec.sparse):
        deps.append(dg.AssetDep(key(spec, stages.CLEANED_FEATURES), partition_mapping=days_before(1, 1)))
    return deps
