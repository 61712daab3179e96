"""A sensor per dataset on its landing folder: a day whose files have arrived or changed is run."""

import dagster as dg

from assets.progress import stages_done
from assets.resources import LakeResource, LandingResource
from ml.catalog.spec import DatasetSpec
from orchestration.dead_runs import fail_dead_runs
from orchestration.jobs import DailyJob

IN_PROGRESS = (dg.DagsterRunStatus.QUEUED, dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED)


def landing_sensor(spec: DatasetSpec, job: DailyJob) -> dg.SensorDefinition:
    """Asks for one day at a time, the earliest first: a day's model starts from the model of the day before.

    The run key holds the files' stamps, so a day that failed is asked for again when its files change, and only then.
    """

    @dg.sensor(
        name=f"{spec.name}_landing",
        job=job,
        minimum_interval_seconds=30,
        description=f"Runs the days of {spec.name} whose files have arrived in the landing folder, or changed there.",
    )
    def landing_folder(context: dg.SensorEvaluationContext, lake: LakeResource, landing: LandingResource):
        from ml.logs.landing import landed_days

        fail_dead_runs(context.instance)
        running = context.instance.get_runs(dg.RunsFilter(job_name=job.name, statuses=list(IN_PROGRESS)), limit=1)
        if running:
            return dg.SkipReason(f"run {running[0].run_id} is in progress")
        for day in landed_days(spec, landing.folder(spec.name), lake.open()):
            if not (day.current and stages_done(lake.open(), spec, day.key)):
                return dg.RunRequest(run_key=f"{day.key}:{day.stamp}", partition_key=day.key)
        return dg.SkipReason("every day that has landed is in the lake")

    return landing_folder
