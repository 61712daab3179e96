"""One sensor per dataset on its service and the receivers of its models, which reports their health between runs.

It requests no runs, so it is on by default. `make dagster` or a deployment's daemon evaluates it.
"""

import json

import dagster as dg

from assets.resources import LakeResource, ServingResource, SyncResource
from assets.serving_checks import health_evaluation, health_verdict, lag_evaluation, lag_verdict
from ml.catalog.spec import DatasetSpec

SECONDS = 30


def serving_sensor(spec: DatasetSpec) -> dg.SensorDefinition:
    """Build the sensor of one dataset.

    It evaluates the checks `serving_lag` of each model and `serving_health`, and reports a check whose verdict or explanation
    changes; the cursor stores the explanations.
    """

    @dg.sensor(
        name=f"{spec.name}_serving",
        minimum_interval_seconds=SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=f"Watches the service of {spec.name}, and the lag of the servers of its models.",
    )
    def serving(context: dg.SensorEvaluationContext, lake: LakeResource, sync: SyncResource, serving: ServingResource):
        verdicts = {f"serving_lag of {model}": lag_verdict(lake.open(), sync, spec, model) for model in spec.models}
        found = {name: lag_evaluation(spec, model, of) for model, (name, of) in zip(spec.models, verdicts.items(), strict=True)}
        verdicts["serving_health"] = health_verdict(lake.open(), serving, spec)
        found["serving_health"] = health_evaluation(spec, verdicts["serving_health"])
        explained = {name: of["metadata"].get("explanation", "") for name, of in verdicts.items()}
        before = json.loads(context.cursor) if context.cursor else {}
        news = [found[name] for name, text in explained.items() if text != before.get(name, "")]
        wrong = "; ".join(f"{name}: {text}" for name, text in explained.items() if text)
        reason = dg.SkipReason(wrong or "services and receivers are healthy, or there are none")
        return dg.SensorResult(skip_reason=reason, cursor=json.dumps(explained), asset_events=news)

    return serving
