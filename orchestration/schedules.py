"""A daily run per dataset, an hour after the day has ended in the dataset's own time zone."""

import dagster as dg

from orchestration.jobs import DailyJob


def daily_schedule(job: DailyJob):
    """Off until switched on: a replayed log has no use for it."""
    return dg.build_schedule_from_partitioned_job(job, name=f"{job.name}_schedule", hour_of_day=1)
