"""The freshness check: days between the newest model and the newest landed log. A replayed log has no wall-clock freshness.

The landing sensor evaluates the check on every tick, because a check inside a run cannot report that no run happened.
"""

from typing import Any

import dagster as dg

from assets.policy import key
from assets.resources import LakeResource, LandingResource
from ml import stages
from ml.catalog.spec import DatasetSpec
from ml.days import days_apart
from ml.lake import Lake

NAME = "freshness"
MAX_LAG_DAYS = 1


def lag_in_days(lake: Lake, spec: DatasetSpec, newest: str | None) -> int | None:
    """Return the days from the newest model to the newest landed day; None without a landed day, or without a model."""
    models = lake.days(stages.tuned_models(spec.primary), spec.name)
    if newest is None or not models:
        return None
    return max(0, days_apart(models[-1], newest))


def evaluation(spec: DatasetSpec, lag: int | None) -> dg.AssetCheckEvaluation:
    """Return the result of the check for a lag, to be reported outside a run."""
    return dg.AssetCheckEvaluation(asset_key=key(spec, stages.tuned_models(spec.primary)), check_name=NAME, **_verdict(lag))


def _verdict(lag: int | None) -> dict[str, Any]:
    return {
        "passed": lag is not None and lag <= MAX_LAG_DAYS,
        "severity": dg.AssetCheckSeverity.WARN,
        "metadata": {"lag_days": lag if lag is not None else "no model yet"},
    }


def build_freshness_check(spec: DatasetSpec) -> dg.AssetChecksDefinition:
    """Build the check of one dataset, on its first model."""

    @dg.asset_check(
        asset=key(spec, stages.tuned_models(spec.primary)),
        name=NAME,
        description=f"The newest model is at most {MAX_LAG_DAYS} day behind the newest log that has landed.",
    )
    def freshness(lake: LakeResource, landing: LandingResource) -> dg.AssetCheckResult:
        from ml.joiner.landing import landed_examples

        landed = landed_examples(spec, landing.folder(spec.name), lake.open())
        return dg.AssetCheckResult(**_verdict(lag_in_days(lake.open(), spec, landed.newest)))

    return freshness
