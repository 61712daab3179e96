"""One sensor per dataset on its service and the receivers of its models, which reports their health between runs.

It requests no runs, so it is on by default. `make ui` or a deployment's daemon evaluates it.
"""

import dagster as dg

from assets.resources import LakeResource, ServingResource, SyncResource
from assets.serving_checks import health_evaluation, health_verdict, lag_evaluation, lag_verdict
from ml.catalog.spec import DatasetSpec

SECONDS = 30


def serving_sensor(spec: DatasetSpec) -> dg.SensorDefinition:
    """Build the sensor of one dataset.

    It evaluates the checks `serving_lag` of each model and `serving_health`, and reports a check whose verdict or explanation
    differs from the latest result that is stored, whether the sensor or a run has stored it.
    """

    @dg.sensor(
        name=f"{spec.name}_serving",
        minimum_interval_seconds=SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=f"Watches the service of {spec.name}, and the lag of the servers of its models.",
    )
    def serving(context: dg.SensorEvaluationContext, lake: LakeResource, sync: SyncResource, serving: ServingResource):
        root, found = lake.open(), dict[str, dg.AssetCheckEvaluation]()
        for model in spec.models:
            found[f"serving_lag of {model}"] = lag_evaluation(spec, model, lag_verdict(root, sync, spec, model))
        found["serving_health"] = health_evaluation(spec, health_verdict(root, serving, spec))
        wrong = "; ".join(f"{name}: {text}" for name, one in found.items() if (text := _explanation(one)))
        reason = dg.SkipReason(wrong or "services and receivers are healthy, or there are none")
        news = [one for one in found.values() if _is_news(context.instance, one)]
        return dg.SensorResult(skip_reason=reason, asset_events=news)

    return serving


def _explanation(evaluation: dg.AssetCheckEvaluation) -> str:
    found = evaluation.metadata.get("explanation")
    return str(found.value) if found else ""


def _is_news(instance: dg.DagsterInstance, found: dg.AssetCheckEvaluation) -> bool:
    """Whether a result differs from the latest that is stored. A passed check that has never run is no news."""
    record = instance.get_latest_asset_check_evaluation_record(found.asset_check_key)
    if record is None:
        return bool(_explanation(found))
    stored = record.evaluation  # of another type if a run has only planned the check
    if not isinstance(stored, dg.AssetCheckEvaluation):
        return True
    return (found.passed, _explanation(found)) != (stored.passed, _explanation(stored))
