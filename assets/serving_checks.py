"""Checks of services: whether receivers serve what was published in time, and whether the service of a dataset is healthy.

The sensor `<dataset>_serving` evaluates them on its ticks too, because a check inside a run cannot report a service that stops
between runs.
"""

from typing import Any

import dagster as dg

from assets.policy import key
from assets.resources import LakeResource, ServingResource, SyncResource
from assets.tables import table
from ml.catalog.spec import DatasetSpec
from ml.lake import Lake
from ml.stages import advisor_recipes, exported_models, online_updates

LAG, HEALTH = "serving_lag", "serving_health"


def lag_verdict(lake: Lake, sync: SyncResource, spec: DatasetSpec, model: str) -> dict[str, Any]:
    """Return the arguments of the check's result: whether it passes, and the lag of each receiver."""
    from ml.sync.lag import serving_lag

    folder, severity = sync.folder(spec.name, model), dg.AssetCheckSeverity.WARN
    if not serving_lag(folder):  # most datasets: what follows imports torch
        return {"passed": True, "severity": severity, "metadata": {"receivers": "none", "largest_lag_seconds": 0.0}}
    from ml.online.published import NAME as SCORES
    from ml.recipes.stored import recipe_in_use

    days = lake.days(advisor_recipes(model), spec.name)
    limit = recipe_in_use(lake, spec, model, days[-1] if days else spec.first_day).online.sync.max_lag
    # The receiver of the day's scores keeps packages from deletion. It serves no requests.
    found = serving_lag(folder, ignore=[SCORES])
    late = [one for one in found if one.seconds > limit]
    columns = {"receiver": "string", "run": "string", "version": "int", "lag_seconds": "float", "silent_seconds": "float"}
    values = ((one.name, one.run_id, one.version, round(one.seconds, 1), round(one.silent_seconds, 1)) for one in found)
    rows = [dict(zip(columns, of, strict=True)) for of in values]
    explanation = f"{', '.join(one.name for one in late)} did not serve a published version within {limit:g} seconds"
    return {
        "passed": not late,
        "severity": severity,
        "metadata": {
            "receivers": table(columns, rows),
            "largest_lag_seconds": max((one.seconds for one in found), default=0.0),
            "limit_seconds": limit,
            **({"explanation": explanation} if late else {}),
        },
    }


def lag_evaluation(spec: DatasetSpec, model: str, verdict: dict[str, Any]) -> dg.AssetCheckEvaluation:
    """Return the result of the check, to be reported outside a run."""
    return dg.AssetCheckEvaluation(asset_key=key(spec, online_updates(model)), check_name=LAG, **verdict)


def build_lag_check(spec: DatasetSpec, model: str) -> dg.AssetChecksDefinition:
    """Build the check of one model of a dataset."""

    @dg.asset_check(
        asset=key(spec, online_updates(model)),
        name=LAG,
        description="Every receiver serves a published version within `online.sync.max_lag` seconds.",
    )
    def serving_lag(lake: LakeResource, sync: SyncResource) -> dg.AssetCheckResult:
        return dg.AssetCheckResult(**lag_verdict(lake.open(), sync, spec, model))

    return serving_lag


def health_verdict(lake: Lake, serving: ServingResource, spec: DatasetSpec) -> dict[str, Any]:
    """Return the arguments of the check's result: whether it passes, and what the service reports about its models."""
    from ml.serving.announced import DamagedAnnouncement
    from ml.serving.watched import WatchedService, watch_service

    try:
        found = watch_service(spec, lake, serving.folder(spec.name))
    except (DamagedAnnouncement, OSError) as error:
        found = WatchedService("unknown", reasons=[str(error)])
    severity = dg.AssetCheckSeverity.WARN
    if found is None:
        return {"passed": True, "severity": severity, "metadata": {"service": "none"}}
    columns: dict[str, str] = dict.fromkeys(("model", "version", "status"), "string")
    models = table(columns, [{name: getattr(one, name) for name in columns} for one in found.models])
    reasons = list(found.reasons)
    if found.versions_error:
        reasons.append(f"old models cannot be found, because the versions are unknown: {found.versions_error}")
    explained = "; ".join(reasons)
    metadata = {"service": found.url, "models": models, **({"explanation": explained} if explained else {})}
    return {"passed": not found.reasons, "severity": severity, "metadata": metadata}


def health_evaluation(spec: DatasetSpec, verdict: dict[str, Any]) -> dg.AssetCheckEvaluation:
    """Return the result of the check, to be reported outside a run."""
    return dg.AssetCheckEvaluation(asset_key=key(spec, exported_models(spec.primary)), check_name=HEALTH, **verdict)


def build_health_check(spec: DatasetSpec) -> dg.AssetChecksDefinition:
    """Build the check of the service of a dataset, on the exports of its first model."""

    @dg.asset_check(
        asset=key(spec, exported_models(spec.primary)),
        name=HEALTH,
        description="The service of the dataset answers, serves the newest version of each model, and publishes stored events. "
        "Passes if no service runs.",
    )
    def serving_health(lake: LakeResource, serving: ServingResource) -> dg.AssetCheckResult:
        return dg.AssetCheckResult(**health_verdict(lake.open(), serving, spec))

    return serving_health
