"""The check of serving lag: whether every receiver serves what was published within the limit of the recipe.

The stream sensor evaluates it on its ticks too, because a check inside a run cannot report a server that stops between runs.
"""

from typing import Any

import dagster as dg

from assets.policy import key
from assets.resources import LakeResource, SyncResource
from assets.tables import table
from ml.catalog.spec import DatasetSpec
from ml.lake import Lake
from ml.stages import advisor_recipes, online_updates

NAME = "serving_lag"


def lag_verdict(lake: Lake, sync: SyncResource, spec: DatasetSpec, model: str) -> dict[str, Any]:
    """Return the arguments of the check's result: whether it passes, and the lag of each receiver."""
    from ml.online.published import NAME as SCORES
    from ml.recipes.stored import recipe_in_use
    from ml.sync.lag import serving_lag

    days = lake.days(advisor_recipes(model), spec.name)
    limit = recipe_in_use(lake, spec, model, days[-1] if days else spec.first_day).online.sync.max_lag
    # The receiver of the day's scores keeps packages from deletion. It serves no requests.
    found = serving_lag(sync.folder(spec.name, model), ignore=[SCORES])
    late = [one for one in found if one.seconds > limit]
    columns = {"receiver": "string", "run": "string", "version": "int", "lag_seconds": "float", "silent_seconds": "float"}
    values = ((one.name, one.run_id, one.version, round(one.seconds, 1), round(one.silent_seconds, 1)) for one in found)
    rows = [dict(zip(columns, of, strict=True)) for of in values]
    explanation = f"{', '.join(one.name for one in late)} did not serve a published version within {limit:g} seconds"
    return {
        "passed": not late,
        "severity": dg.AssetCheckSeverity.WARN,
        "metadata": {
            "receivers": table(columns, rows),
            "largest_lag_seconds": max((one.seconds for one in found), default=0.0),
            "limit_seconds": limit,
            **({"explanation": explanation} if late else {}),
        },
    }


def lag_evaluation(spec: DatasetSpec, model: str, verdict: dict[str, Any]) -> dg.AssetCheckEvaluation:
    """Return the result of the check, to be reported outside a run."""
    return dg.AssetCheckEvaluation(asset_key=key(spec, online_updates(model)), check_name=NAME, **verdict)


def build_serving_check(spec: DatasetSpec, model: str) -> dg.AssetChecksDefinition:
    """Build the check of one model of a dataset."""

    @dg.asset_check(
        asset=key(spec, online_updates(model)),
        name=NAME,
        description="Every receiver serves a published version within `online.sync.max_lag` seconds.",
    )
    def serving_lag(lake: LakeResource, sync: SyncResource) -> dg.AssetCheckResult:
        return dg.AssetCheckResult(**lag_verdict(lake.open(), sync, spec, model))

    return serving_lag
