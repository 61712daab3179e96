"""How far the newest model is behind the newest log, in days. Wall-clock freshness says nothing of a replayed log."""

from datetime import date

import dagster as dg

from assets.policy import key
from assets.resources import LakeResource
from ml.catalog.spec import DatasetSpec
from ml.lake import Lake

MAX_LAG_DAYS = 1


def lag_in_days(lake: Lake, dataset: str) -> int | None:
    """Days from the newest model's day to the newest raw day; None where there is no raw day or no model yet."""
    raw, models = lake.days("raw_logs", dataset), lake.days("tuned_models", dataset)
    if not raw or not models:
        return None
    return max(0, (date.fromisoformat(raw[-1]) - date.fromisoformat(models[-1])).days)


def build_freshness_check(spec: DatasetSpec) -> dg.AssetChecksDefinition:
    @dg.asset_check(
        asset=key(spec, "tuned_models"),
        name="freshness",
        description=f"The newest model is at most {MAX_LAG_DAYS} day behind the newest log.",
    )
    def freshness(lake: LakeResource) -> dg.AssetCheckResult:
        lag = lag_in_days(lake.open(), spec.name)
        return dg.AssetCheckResult(
            passed=lag is not None and lag <= MAX_LAG_DAYS,
            severity=dg.AssetCheckSeverity.WARN,
            metadata={"lag_days": lag if lag is not None else "no model yet"},
        )

    return freshness
