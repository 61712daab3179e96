"""Schedules of a dataset, in its own time zone. They are off by default, because a replayed log does not need them."""

from datetime import timedelta

import dagster as dg

from assets.policy import key
from assets.resources import LakeResource
from ml.catalog.spec import DatasetSpec
from ml.lake import Lake, MissingPartition
from ml.stages import tuning_results
from ml.trials.window import NothingToTune, declared_window, window_of
from orchestration.jobs import AssetJob


def daily_schedule(job: AssetJob):
    """Build the schedule that runs each day one hour after it ends."""
    return dg.build_schedule_from_partitioned_job(job, name=f"{job.name}_schedule", hour_of_day=1)


def weekly_tuning(spec: DatasetSpec, job: AssetJob):
    """Build the schedule that tunes recipes on Mondays, before Sunday is trained. The best values so far are tried first."""

    @dg.schedule(
        name=f"{job.name}_schedule",
        job=job,
        cron_schedule="10 0 * * 1",
        execution_timezone=spec.time.timezone,
        description=f"Tunes the recipes of {spec.name} weekly. The daily job of the day then uses better recipes.",
    )
    def weekly(context: dg.ScheduleEvaluationContext, lake: LakeResource) -> dg.RunRequest | dg.SkipReason:
        last = (context.scheduled_execution_time - timedelta(days=1)).date()
        day = last.isoformat()
        if day not in spec.days(last):
            return dg.SkipReason(f"{day} is not a day of {spec.name}")
        missing = {model: _missing(spec, model, day, lake.open()) for model in spec.models}
        full = [model for model, lacks in missing.items() if not lacks]
        if not full:
            return dg.SkipReason(next(iter(missing.values()), f"{spec.name} has no models"))
        for model in sorted(missing.keys() - set(full)):
            context.log.info("%s is not tuned: %s", model, missing[model])
        return dg.RunRequest(
            run_key=day, partition_key=day, asset_selection=[key(spec, tuning_results(model)) for model in full]
        )

    return weekly


def _missing(spec: DatasetSpec, model: str, day: str, lake: Lake) -> str:
    """Return what a tuning for a day lacks; empty if its window is full."""
    try:
        window_of(spec, day, declared_window(spec, model), lake)
    except (NothingToTune, MissingPartition) as error:
        return str(error)
    return ""
