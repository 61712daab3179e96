"""One sensor per dataset on its stream folder, and the job that trains on the rows that have arrived.

`make online` follows a stream all the time. The sensor, which is off by default, is for deployments without it. The job trains
on the files that no checkpoint has, publishes, and completes days that are over: their rows are written into the landing
folder, where the landing sensor finds them, and their state becomes a partition of `online_updates`.
"""

import dagster as dg

from assets.policy import TRAINING_POOL, key
from assets.resources import LakeResource, LandingResource, SyncResource
from ml.catalog.spec import DatasetSpec
from ml.stages import online_updates
from orchestration.dead_runs import fail_dead_runs
from orchestration.sensors import IN_PROGRESS

SECONDS = 30


def followed(spec: DatasetSpec) -> list[str]:
    """Return the models that learn from a stream: those with `serve: online`, or else the first model."""
    return [name for name, chosen in spec.models.items() if chosen.serve == "online"] or [spec.primary]


def stream_job(spec: DatasetSpec) -> dg.JobDefinition:
    """Build the job of one dataset."""

    @dg.op(name=f"{spec.name}_train_on_arriving_rows", pool=TRAINING_POOL)
    def train_on_arriving_rows(
        context: dg.OpExecutionContext, lake: LakeResource, landing: LandingResource, sync: SyncResource
    ) -> None:
        from ml.lake import BusyPartition
        from ml.online.arriving import follow
        from ml.online.arriving_day import ArrivingOptions
        from orchestration.arriving import stream_of

        held, stream = lake.open(), stream_of(spec)
        if stream is None:
            return
        options = ArrivingOptions(on_message=context.log.info)
        for model in followed(spec):
            stage, slices = online_updates(model), 0
            before = set(held.days(stage, spec.name))
            folder = sync.folder(spec.name, model)
            try:
                for _ in follow(spec, held, stream, folder, landing.folder(spec.name), _until_empty, model, options):
                    slices += 1
            except BusyPartition as error:
                context.log.info(f"{model} is trained by another process: {error}")
            for day in sorted(set(held.days(stage, spec.name)) - before):
                context.log_event(dg.AssetMaterialization(key(spec, stage), partition=day))
            context.log.info(f"{model} was trained on {slices} slices")

    @dg.job(
        name=f"{spec.name}_arriving",
        description=f"Trains models of {spec.name} on rows that have arrived in its stream folder, and publishes the updates.",
        tags={"dataset": spec.name},
    )
    def arriving() -> None:
        train_on_arriving_rows()

    return arriving


def stream_sensor(spec: DatasetSpec, job: dg.JobDefinition) -> dg.SensorDefinition:
    """Build the sensor of one dataset.

    It requests a run if there are files that no checkpoint has, once for each newest file.
    """

    @dg.sensor(
        name=f"{spec.name}_stream",
        job=job,
        minimum_interval_seconds=SECONDS,
        default_status=dg.DefaultSensorStatus.STOPPED,
        description=f"Trains on rows of {spec.name} that arrive in its stream folder.",
    )
    def stream_folder(context: dg.SensorEvaluationContext, lake: LakeResource):
        fail_dead_runs(context.instance)
        return _answer(context.instance, spec, job, lake)

    return stream_folder


def _answer(
    instance: dg.DagsterInstance, spec: DatasetSpec, job: dg.JobDefinition, lake: LakeResource
) -> dg.RunRequest | dg.SkipReason:
    from ml.online.arriving_position import position_of
    from orchestration.arriving import stream_of

    stream = stream_of(spec)
    if stream is None:
        return dg.SkipReason(f"{spec.name} has no stream folder")
    if running := instance.get_runs(dg.RunsFilter(job_name=job.name, statuses=IN_PROGRESS), limit=1):
        return dg.SkipReason(f"run {running[0].run_id} is in progress")
    names = {name for model in followed(spec) for name in stream.names(position_of(lake.open(), spec, model))}
    if not names:
        return dg.SkipReason("every file of the stream was trained on")
    return dg.RunRequest(run_key=f"{max(names)}:{len(names)}")


def _until_empty(seconds: float) -> bool:
    """Stop when there is nothing to read."""
    return seconds > 0
