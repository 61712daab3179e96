"""Runs the work of an asset day by day and reports each day to Dagster. A range run and single runs do the same.

This module also decides what is retried: transient errors of the machine or the network are retried, errors in data are not.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import dagster as dg

from assets.owner import own_run
from ml.catalog.spec import DatasetSpec
from ml.lake import Lake

log = logging.getLogger("evergreen")

# Names of classes, so that their libraries need not be imported.
_HARD = {"FileNotFoundError", "PermissionError", "FileExistsError", "NotADirectoryError", "IsADirectoryError", "BadGzipFile"}
_PASSING = {"Py4JNetworkError", "OperationalError"}
_WRAPPING = {"MlflowException"}

RETRY = dg.RetryPolicy(max_retries=3, delay=5, backoff=dg.Backoff.EXPONENTIAL, jitter=dg.Jitter.PLUS_MINUS)

_interrupted: set[str] = set()
"""Runs of this process that were interrupted. Dagster goes on with steps that do not depend on the interrupted one."""


def is_transient(error: BaseException) -> bool:
    """Return whether a retry may help: for errors of the network, the disk or a database, but not of data or settings."""
    names = set(getattr(error, "kinds", ())) or {
        cls.__name__ for cls in type(error).__mro__
    }  # set on errors of other processes
    if names & _HARD or (type(error) is OSError and error.errno is None):  # Arrow's error for a damaged file
        return False
    if names & _WRAPPING:
        behind = error.__cause__ or error.__context__
        return behind is not None and is_transient(behind)
    return bool(names & {"OSError", *_PASSING})


def each_day(
    context: dg.AssetExecutionContext,
    work: Callable[[str], Mapping[str, Any]],
    summary: str = "rows",
    check_results: Sequence[dg.AssetCheckResult] = (),
) -> dg.MaterializeResult:
    """Call `work` for every partition of the run, in order. Its result and its duration are the metadata of the day.

    A run over a range stores one materialisation for all its days, so the metadata of each day are also logged as an
    observation of that day.

    Args:
        context: Context of the asset.
        work: Processes a day and returns its metadata.
        summary: Key of the metadata that the log line shows.
        check_results: Results of checks that the asset itself has made.

    Returns:
        The metadata of the last day.

    Raises:
        dg.Failure: `work` was interrupted, or failed with an error that is not transient. It is not retried.
    """
    own_run(context)
    metadata: dict[str, Any] = {}
    for day in context.partition_keys:
        started = time.perf_counter()
        if context.run_id in _interrupted:
            raise dg.Failure("the run was interrupted", allow_retries=False)
        try:
            metadata = dict(work(day))
        except (KeyboardInterrupt, dg.DagsterExecutionInterruptedError) as error:  # Dagster would retry
            _interrupted.add(context.run_id)
            raise dg.Failure(f"{context.asset_key.to_user_string()} of {day} was interrupted", allow_retries=False) from error
        except Exception as error:
            if is_transient(error):
                raise
            raise dg.Failure(f"{context.asset_key.to_user_string()} of {day}: {error}", allow_retries=False) from error
        metadata["seconds"] = time.perf_counter() - started
        log.info("%s  %-25s %s", day, "/".join(context.asset_key.path[1:]), _brief(metadata, summary))
        if len(context.partition_keys) > 1:
            context.log_event(dg.AssetObservation(context.asset_key, partition=day, metadata=metadata))
    return dg.MaterializeResult(metadata=metadata, check_results=check_results)


def _brief(metadata: Mapping[str, Any], key: str) -> str:
    parts = []
    key, value = (key, metadata[key]) if metadata.get(key) is not None else ("rows", metadata.get("dagster/row_count"))
    if value is not None:
        parts.append(f"{value:,} {key}" if isinstance(value, int) else f"{key} {value:.4f}")
    for count, what in (("quarantined", "malformed"), ("out_of_range", "out of range")):
        if metadata.get(count):
            parts.append(f"{metadata[count]:,} {what}")
    if isinstance(seconds := metadata.get("seconds"), float):
        parts.append(f"{seconds:.1f} s")
    return ", ".join(parts)


def checked_days(context: dg.AssetCheckExecutionContext, lake: Lake, stage: str, spec: DatasetSpec) -> list[str]:
    """Return the days that a run checks: its partitions, or the newest day in the lake.

    In Dagster, a run of checks without their asset has no partition.

    Raises:
        MissingPartition: The lake has no day of the stage.
    """
    if context.has_partition_key or context.has_partition_key_range:
        return list(context.partition_keys)
    newest = lake.days(stage, spec.name)[-1:] or [spec.partitions.start.isoformat()]
    lake.require(stage, spec.name, newest[0])
    return newest
