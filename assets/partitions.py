"""Days as partitions. All assets of a dataset share one definition, so that ranges and backfills cover all of them."""

from datetime import timedelta

import dagster as dg

from ml.catalog.spec import DatasetSpec


def daily(spec: DatasetSpec) -> dg.DailyPartitionsDefinition:
    """Return the days of a dataset in its own time zone; the range of a live log is open."""
    end = spec.partitions.end
    return dg.DailyPartitionsDefinition(
        start_date=spec.partitions.start.isoformat(),
        end_date=(end + timedelta(days=1)).isoformat() if end else None,  # Dagster's end is exclusive
        timezone=spec.time.timezone,
    )


def days_before(first: int, last: int) -> dg.TimeWindowPartitionMapping:
    """Map a day to the days from `first` to `last` before it: `(1, 1)` is the day before, `(7, 0)` the week up to the day."""
    return days_around(-first, -last)


def days_around(first: int, last: int) -> dg.TimeWindowPartitionMapping:
    """Map a day to the days from `first` to `last` after it; a negative number is before it."""
    return dg.TimeWindowPartitionMapping(start_offset=first, end_offset=last, allow_nonexistent_upstream_partitions=True)
