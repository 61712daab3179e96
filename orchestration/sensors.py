"""One sensor per dataset on its landing folder, which runs the days whose files have arrived or changed."""

import dagster as dg

from assets.freshness import evaluation, lag_in_days
from assets.preflight import findings_of
from assets.progress import run_fingerprint, stages_done
from assets.resources import LakeResource, LandingResource
from ml.catalog.spec import DatasetSpec
from orchestration.dead_runs import fail_dead_runs
from orchestration.jobs import AssetJob

IN_PROGRESS = [dg.DagsterRunStatus.QUEUED, dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED]
FAILED = [dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED]
# Tag of a requested run: day, stamp of its files, fingerprint of everything else that decides whether the run succeeds.
REQUEST = "evergreen/request"


def landing_sensor(spec: DatasetSpec, job: AssetJob) -> dg.SensorDefinition:
    """Build the sensor of one dataset.

    It requests one day at a time, the earliest first, because a day's model starts from the model of the day before. A day that
    failed is requested again only when its files, a side table, its catalog entry or a recipe changes; until then, ticks are
    skipped with the reason. The sensor also reports the lag between the newest model and the newest log whenever it changes;
    the cursor stores it.
    """

    @dg.sensor(
        name=f"{spec.name}_landing",
        job=job,
        minimum_interval_seconds=30,
        description=f"Runs the days of {spec.name} whose files have arrived or changed in the landing folder.",
    )
    def landing_folder(context: dg.SensorEvaluationContext, lake: LakeResource, landing: LandingResource):
        from ml.joiner.landing import landed_examples
        from ml.preflight.finding import errors, of_days, refusal

        fail_dead_runs(context.instance)
        found = findings_of(spec, landing.folder(spec.name))
        if errors(of_days(found, ())):
            return dg.SkipReason(refusal(spec.name, found))
        landed = landed_examples(spec, landing.folder(spec.name), lake.open())
        lag = lag_in_days(lake.open(), spec, landed.newest)
        news = [evaluation(spec, lag)] if landed.newest and context.cursor != str(lag) else []
        folder = landing.folder(spec.name)
        day = next((day for day in landed.days if not (day.current and stages_done(lake.open(), spec, day.key, folder))), None)
        if day is not None and errors(of_day := of_days(found, (day.key,))):
            return dg.SkipReason(refusal(spec.name, of_day))
        answer = _answer(context.instance, spec, job, day, folder) if day else dg.SkipReason(_nothing_due(landed.waiting))
        requests, reason = ([answer], None) if isinstance(answer, dg.RunRequest) else ([], answer)
        return dg.SensorResult(requests, reason, cursor=str(lag) if news else context.cursor, asset_events=news)

    return landing_folder


def _nothing_due(waiting: tuple[str, str] | None) -> str:
    """Say that no day is due, and what the first day waits for that cannot be made yet (`LandedExamples.waiting`)."""
    if waiting is None:
        return "every day that has landed is in the lake"
    return f"{waiting[0]} waits for the actions of {waiting[1]}, which have not landed; earlier days are in the lake"


def _answer(instance: dg.DagsterInstance, spec: DatasetSpec, job: AssetJob, due, folder: str) -> dg.RunRequest | dg.SkipReason:
    """Return what to do about the earliest day that is due (a `LandedDay`)."""
    if running := instance.get_runs(dg.RunsFilter(job_name=job.name, statuses=IN_PROGRESS), limit=1):
        return dg.SkipReason(f"run {running[0].run_id} is in progress")
    request = f"{due.key}:{due.stamp}:{run_fingerprint(spec, folder)}"
    earlier = instance.get_runs(dg.RunsFilter(job_name=job.name, tags={REQUEST: request}))
    if earlier and earlier[0].status in FAILED:
        return dg.SkipReason(
            f"{due.key} failed in run {earlier[0].run_id}, and later days wait for it: fix the cause and re-execute that run; "
            f"the sensor runs it again when its files, a side table, its catalog entry or a recipe changes"
        )
    return dg.RunRequest(run_key=f"{request}:{len(earlier)}", partition_key=due.key, tags={REQUEST: request})
