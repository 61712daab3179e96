"""Days as partitions. Every asset of a dataset shares one definition, so that ranges and backfills stay whole."""

from datetime import timedelta

import dagster as dg

from ml.catalog.spec import DatasetSpec


def daily(spec: DatasetSpec) -> dg.DailyPartitionsDefinition:
    """The dataset's days, in its own time zone; open-ended for a live log."""
    end = spec.partitions.end
    return dg.DailyPartitionsDefinition(
        start_date=spec.partitions.start.isoformat(),
        end_date=(end + timedelta(days=1)).isoformat() if end else None,  # Dagster's end is exclusive
        timezone=spec.time.timezone,
    )


def days_before(first: int, last: int) -> dg.TimeWindowPartitionMapping:
    """Maps a day to the days from `first` to `last` before it: `(1, 1)` is yesterday, `(7, 0)` the week up to the day."""
    return dg.TimeWindowPartitionMapping(start_offset=-first, end_offset=-last, allow_nonexistent_upstream_partitions=True)
