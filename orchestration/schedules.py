"""A daily run per dataset, one hour after the day ends in the dataset's own time zone."""

import dagster as dg

from orchestration.jobs import DailyJob


def daily_schedule(job: DailyJob):
    """Build the schedule of one dataset. It is off by default, because a replayed log does not need it."""
    return dg.build_schedule_from_partitioned_job(job, name=f"{job.name}_schedule", hour_of_day=1)
