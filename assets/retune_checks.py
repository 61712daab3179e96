"""Checks of a report: whether each model should be tuned again, because of drift, a fall of quality or its calibration.

They only say so. The sensor in `orchestration.retuning`, which is off by default, requests the tuning.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING

import dagster as dg

from assets.days import checked_days
from assets.partitions import daily
from assets.policy import key
from assets.resources import LakeResource
from ml import stages
from ml.catalog.spec import DatasetSpec

if TYPE_CHECKING:
    from ml.trials.retune import RetuneNeed


def check_name(model: str) -> str:
    """Return the name of a model's check."""
    return f"retune_{model}"


def build_retune_checks(spec: DatasetSpec) -> dg.AssetChecksDefinition:
    """Build the checks of one dataset, one for each model, as one step."""
    report, partitions = key(spec, stages.EVALUATION_REPORTS), daily(spec)

    @dg.multi_asset_check(
        name=f"{spec.name}_retune_checks",
        specs=[
            dg.AssetCheckSpec(
                check_name(model),
                asset=report,
                additional_deps=[key(spec, stages.FEATURE_PROFILES)],
                description=f"{model} need not be tuned again for drift, a fall of quality or calibration on the last days.",
                partitions_def=partitions,
            )
            for model in spec.models
        ],
        can_subset=True,
    )
    def checks(context: dg.AssetCheckExecutionContext, lake: LakeResource) -> Iterable[dg.AssetCheckResult]:
        from ml.trials.retune import retune_needs

        held = lake.open()
        days = checked_days(context, held, stages.EVALUATION_REPORTS, spec)
        needs = {day: retune_needs(spec, day, held) for day in days}
        wanted = {chosen.name for chosen in context.selected_asset_check_keys}
        for model in (model for model in spec.models if check_name(model) in wanted):
            failing = [day for day in days if needs[day][model].reasons]
            yield _result(report, needs[failing[0] if failing else days[-1]][model], failing)

    return checks


def _result(report: dg.AssetKey, need: "RetuneNeed", failing: list[str]) -> dg.AssetCheckResult:
    explanation = "; ".join(need.reasons.values())
    return dg.AssetCheckResult(
        asset_key=report,
        check_name=check_name(need.model),
        passed=not failing,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={
            "last_tuning": need.since or "never tuned",
            **need.measured,
            **({"explanation": f"{need.model} should be tuned again: {explanation}"} if explanation else {}),
            "failing_days": dg.MetadataValue.json(failing),
        },
    )
