"""Checks of online training: whether the serving model predicts or ranks as well as the day before and the days before."""

import dagster as dg

from assets.check_results import result_of_days
from assets.days import checked_days
from assets.partitions import daily
from assets.policy import key
from assets.resources import LakeResource
from ml import stages
from ml.catalog.spec import DatasetSpec

NAME = "progressive_auc"


def build_online_check(spec: DatasetSpec, model: str) -> dg.AssetChecksDefinition:
    """Build the check of one model of a dataset."""
    stage = stages.online_updates(model)
    asset = key(spec, stage)

    @dg.asset_check(
        asset=asset,
        name=NAME,
        partitions_def=daily(spec),
        description="The AUC of the serving model, or its recall@20 if the day's clicks are ranked, is not significantly "
        "lower than with the daily model of the day before, on the same rows, nor below its own mean over the last seven days.",
    )
    def progressive_auc(context: dg.AssetCheckExecutionContext, lake: LakeResource) -> dg.AssetCheckResult:
        from ml.online.verdict import judge_day

        held = lake.open()
        days = checked_days(context, held, stage, spec)
        found = {day: judge_day(held, spec, model, day) for day in days}
        failing = [day for day, verdict in found.items() if verdict.reasons]
        shown = found[failing[0] if failing else days[-1]]
        return result_of_days(failing, shown.values, shown.reasons)

    return progressive_auc
