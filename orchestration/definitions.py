"""The entry point: every asset, check, job, schedule and sensor of every dataset in the catalog."""

from collections.abc import Iterable

import dagster as dg

from assets.graph import catalog_graph
from ml.catalog.spec import DatasetSpec
from orchestration.broken_entries import broken_entries
from orchestration.deployments import catalog, resources
from orchestration.jobs import daily_job, online_job, tuning_job
from orchestration.retuning import retuning_sensor
from orchestration.schedules import daily_schedule, weekly_tuning
from orchestration.sensors import landing_sensor
from orchestration.streams import stream_job, stream_sensor
from orchestration.watching import serving_sensor


def build_defs(specs: Iterable[DatasetSpec], resource_overrides: dict[str, object] | None = None) -> dg.Definitions:
    """Build the definitions of several datasets.

    Args:
        specs: The datasets.
        resource_overrides: Resources by name, which replace those of this process's deployment.
    """
    specs = list(specs)
    jobs, tunings = [daily_job(spec) for spec in specs], [tuning_job(spec) for spec in specs]
    streams = [stream_job(spec) for spec in specs]
    bound = resources() | (resource_overrides or {})
    return dg.Definitions.merge(
        catalog_graph(specs),
        dg.Definitions(
            resources=bound,
            jobs=[*jobs, *tunings, *streams, *(online_job(spec) for spec in specs)],
            schedules=[
                *(daily_schedule(job) for job in jobs),
                *(weekly_tuning(spec, job) for spec, job in zip(specs, tunings, strict=True)),
            ],
            sensors=[
                *(landing_sensor(spec, job) for spec, job in zip(specs, jobs, strict=True)),
                *(retuning_sensor(spec, job) for spec, job in zip(specs, tunings, strict=True)),
                *(stream_sensor(spec, job) for spec, job in zip(specs, streams, strict=True)),
                *(serving_sensor(spec) for spec in specs),
            ],
            # A single process with one JVM and one import of torch takes a third of the CPU time of one process per step.
            executor=dg.in_process_executor,
        ),
    )


@dg.definitions
def defs() -> dg.Definitions:
    """Build the definitions of the whole catalog, which Dagster loads."""
    found = catalog()
    return dg.Definitions.merge(build_defs(found.datasets.values()), broken_entries(found.broken))
