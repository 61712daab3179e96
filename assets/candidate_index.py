"""The items that are live at the end of a day, and an index of their vectors by the day's two-tower model."""

from typing import Any

import dagster as dg

from assets.check_results import result_of_days
from assets.days import checked_days, each_day
from assets.partitions import daily, days_before
from assets.policy import daily_asset, key
from assets.resources import LakeResource, LandingResource
from ml import stages
from ml.catalog.spec import DatasetSpec

LEAST_RECALL = 0.95


def build(spec: DatasetSpec) -> dg.AssetsDefinition:
    """Build the asset of one dataset that has an item."""
    look_back = int(spec.live_hours // 23) + 1

    @daily_asset(
        spec,
        stages.CANDIDATE_INDEX,
        kinds={"faiss", "parquet"},
        deps=[
            *(
                dg.AssetDep(key(spec, stage), partition_mapping=days_before(look_back, 0))
                for stage in dict.fromkeys((stages.RAW_LOGS, spec.examples_log.stage))
            ),
            key(spec, stages.CLEANED_FEATURES),
            *(key(spec, stages.exported_models(model)) for model in spec.models),
        ],
        description="The items that are live at the end of the day, and an index of their vectors if a model has two towers.",
    )
    def candidate_index(
        context: dg.AssetExecutionContext, lake: LakeResource, landing: LandingResource
    ) -> dg.MaterializeResult:
        from ml.online.examples import read_side_tables
        from ml.retrieval.day import index_day

        sides = read_side_tables(spec, landing.folder(spec.name))

        def work(day: str) -> dict[str, Any]:
            done = index_day(spec, day, lake.open(), sides)
            return {
                "items": done.items,
                "is_exact": done.is_exact,
                **({"recall_at_100": done.recall, "queries": done.queries} if done.recall is not None else {}),
                "path": dg.MetadataValue.path(str(done.folder)),
            }

        return each_day(context, work, summary="items")

    return candidate_index


def build_recall_check(spec: DatasetSpec) -> dg.AssetChecksDefinition:
    """Build the check of one dataset that has an item."""

    @dg.asset_check(
        asset=key(spec, stages.CANDIDATE_INDEX),
        name="index_recall",
        partitions_def=daily(spec),
        description=f"The index finds at least {LEAST_RECALL:.0%} of the 100 nearest items of users of the day.",
    )
    def index_recall(context: dg.AssetCheckExecutionContext, lake: LakeResource) -> dg.AssetCheckResult:
        held, stage = lake.open(), stages.CANDIDATE_INDEX
        days = checked_days(context, held, stage, spec)
        found = {day: held.manifest(stage, spec.name, day)["recall_at_100"] for day in days}
        failing = [day for day, recall in found.items() if recall is not None and recall < LEAST_RECALL]
        shown = found[failing[0] if failing else days[-1]]
        return result_of_days(failing, {"recall_at_100": shown})

    return index_recall
