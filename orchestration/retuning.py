"""One sensor per dataset that tunes a model again when its last reports require it. Sensors are off by default."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import dagster as dg

from assets.policy import key
from assets.resources import LakeResource
from ml.catalog.spec import DatasetSpec
from ml.days import shift_day, yesterday
from ml.lake import Lake
from ml.stages import EVALUATION_REPORTS, tuned_models, tuning_results
from orchestration.jobs import AssetJob

if TYPE_CHECKING:
    from ml.trials.retune import RetuneNeed

SECONDS = 600
# Tag of a requested run: model, day of the last tuning, reason. A reason is requested once until the model was tuned again.
CAUSE = "evergreen/retune"


def retuning_sensor(spec: DatasetSpec, job: AssetJob) -> dg.SensorDefinition:
    """Build the sensor of one dataset.

    It judges the newest report as the checks `retune_<model>` do, and requests `tuning_results` of the models that should be
    tuned again, for the day after the report. If that day was already trained, its report is judged next.
    """

    @dg.sensor(
        name=f"{spec.name}_retuning",
        job=job,
        minimum_interval_seconds=SECONDS,
        default_status=dg.DefaultSensorStatus.STOPPED,
        description=f"Tunes a recipe of {spec.name} again when its features drift, or its quality falls.",
    )
    def retuning(context: dg.SensorEvaluationContext, lake: LakeResource):
        from ml.trials.retune import retune_needs

        held = lake.open()
        reported = held.days(EVALUATION_REPORTS, spec.name)
        if not reported:
            return dg.SkipReason("there is no report yet")
        day = shift_day(reported[-1], 1)
        if day not in spec.days(yesterday(spec.zone)):
            return dg.SkipReason(f"{day} has not ended, or is not a day of {spec.name}")
        needs = retune_needs(spec, reported[-1], held)
        asking = {model: need for model, need in needs.items() if need.reasons}
        if not asking:
            return dg.SkipReason(f"the report of {reported[-1]} needs no tuning")
        found = list(_requests(context.instance, spec, held, day, asking))
        return found or dg.SkipReason(
            f"the tuning that the report of {reported[-1]} needs was requested, or {day} is already trained"
        )

    return retuning


def _requests(
    instance: dg.DagsterInstance, spec: DatasetSpec, lake: Lake, day: str, asking: Mapping[str, "RetuneNeed"]
) -> Iterable[dg.RunRequest]:
    """Yield a request for each model whose reason is new."""
    for model, need in asking.items():
        if lake.has(tuned_models(model), spec.name, day):
            continue
        causes = [f"{spec.name}/{model}:{need.since or 'never'}:{reason}" for reason in need.reasons]
        if any(instance.get_runs(dg.RunsFilter(tags={CAUSE: cause}), limit=1) for cause in causes):
            continue
        yield dg.RunRequest(
            run_key=causes[0],
            partition_key=day,
            asset_selection=[key(spec, tuning_results(model))],
            tags={CAUSE: causes[0]},
        )
