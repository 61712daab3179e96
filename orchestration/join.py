"""`make join`: joins the arriving files of two logs into the stream of examples that `make online` follows."""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click
from rich.console import Console
from upath import UPath

from ml.catalog.spec import DatasetSpec
from ml.compute.streaming import is_busy, stop_query
from ml.joiner.blocks import SIDES
from ml.joiner.lock import StreamInUse, only_join
from ml.joiner.read_files import ReadFiles
from ml.joiner.status import StreamStatus, joiner_folder
from ml.joiner.stream_faults import stream_faults
from orchestration.deployments import home
from orchestration.replay import quiet_console, the_dataset
from orchestration.signals import stopped_by_signals

if TYPE_CHECKING:
    from pyspark.sql.streaming.query import StreamingQuery

    from ml.joiner.joining import Joining

HEADER = (
    f"{'joined until (UTC)':19} {'batch':>6} {'events':>11} {'examples':>11} {'match rate':>10} {'repeated':>9} {'late':>7} "
    f"{'quarantined':>11} {'in state':>11} {'MB':>7} {'lag min':>7}"
)
POLL_SECONDS = 1.0
CHECK_SECONDS = 60.0
INTAKE_SECONDS = 30.0
"""Longest wait for a Kafka batch when the join stops. Without a broker, the batch never ends."""


def line(status: StreamStatus) -> str:
    """Format a batch as a line below `HEADER`. Counts are totals since the first start of the stream."""
    known = status.watermark >= 0
    until = f"{datetime.fromtimestamp(status.watermark / 1e6, UTC):%Y-%m-%d %H:%M}" if known else "–"
    counts = status.counts
    events = counts.get("impressions", 0) + counts.get("actions", 0)
    rate = "–" if status.match_rate is None else f"{status.match_rate:.4f}"
    repeated = counts.get("repeated impressions", 0) + status.actions.get("repeated", 0)
    return (
        f"{until:19} {status.batch:>6} {events:>11,} {counts.get('examples', 0):>11,} {rate:>10} {repeated:>9,} "
        f"{status.late:>7,} {status.quarantined:>11,} {status.state_rows:>11,} {status.state_bytes / 1e6:>7,.1f} "
        f"{status.watermark_lag / 60:>7,.0f}"
    )


@click.command()
@click.argument("dataset")
@click.option(
    "--ends",
    is_flag=True,
    help="End the stream with the present files: write the last examples too, then stop. Later events are late.",
)
def main(dataset: str, ends: bool) -> None:
    """Join the impressions and actions of DATASET that arrive in its stream folder, until Ctrl-C.

    The same command continues where it stopped.
    """
    quiet_console()
    spec, console = the_dataset(dataset), Console(highlight=False, soft_wrap=True)
    if spec.actions is None:
        raise click.ClickException(f"{dataset} has one log; a dataset whose entry declares `actions` has two to join")
    if os.environ.get("EVERGREEN_SPARK_MASTER") == "none":
        raise click.ClickException("joining a stream needs Spark; unset EVERGREEN_SPARK_MASTER, or set it to a master")
    root = UPath(str(home())) / "stream" / spec.name
    try:
        with only_join(root):
            join_stream(spec, root, ends, console)
    except StreamInUse as error:
        raise click.ClickException(str(error)) from error


def join_stream(spec: DatasetSpec, root: UPath, ends: bool, console: Console) -> None:
    """Join a stream, whose lock the caller holds, until Ctrl-C, or to its end, and print each batch.

    The batch in progress at Ctrl-C is completed.

    Raises:
        click.ClickException: The state belongs to another catalog entry, or a batch failed.
    """
    from ml.compute.java import JavaMissing
    from ml.compute.spark import start_session
    from ml.compute.spark_stderr import filtered_stderr
    from ml.joiner.joining import ChangedEntry, Joining
    from ml.joiner.kafka import KafkaMissing, read_kafka, start_intake
    from ml.joiner.service import start_join, stop_join

    joining = Joining(spec, root, ends=ends)
    assert spec.actions is not None
    kafka = spec.actions.kafka
    where = f"topics {kafka.impressions} and {kafka.actions}" if kafka else f"files in {root}/impressions and {root}/actions"
    console.print(f"{spec.name}: {where}; examples in {root}/examples; Ctrl-C stops")
    try:
        with filtered_stderr():
            spark = start_session()  # sets a handler of SIGINT, which `stopped_by_signals` replaces
    except JavaMissing as error:
        raise click.ClickException(str(error)) from error
    first = StreamStatus.read(joining.folder)
    with stopped_by_signals() as stop:
        try:
            intake = [start_intake(spec, root, read_kafka(kafka, spark), ends)] if kafka else []
            while ends and any(query.isActive for query in intake) and not stop.wait(POLL_SECONDS):
                pass  # all records that are there now become files
            if lost := _failure(intake):
                raise click.ClickException(f"{spec.name}: records of Kafka could not be read, so nothing was joined: {lost}")
            if stop.is_set():
                return
            query = start_join(joining, spark, on_batch=lambda status: console.print(line(status)))
        except (ChangedEntry, KafkaMissing, ValueError) as error:
            raise click.ClickException(str(error)) from error
        console.print(HEADER)
        queries = [query, *intake]
        _watch(joining, [query] if ends else queries, stop, console)
        # Without Ctrl-C (a failure, or --ends), the first Ctrl-C interrupts.
        at_once = stop.again if stop.is_set() else stop
        if stop.is_set() and is_busy(query):
            console.print("stopping after the batch in progress; Ctrl-C again stops at once, and the next start repeats it")
        failed = _failure(queries)
        stop_join(joining, query, at_once)
        if failed is None and not at_once.is_set():  # an interrupted batch may leave an error
            failed = _failure(queries)
        for one in intake:
            stop_query(one, at_once, INTAKE_SECONDS)
    if failed is not None:
        raise click.ClickException(f"{spec.name}: a batch failed; the same command repeats it: {failed}")
    console.print(summary(first, StreamStatus.read(joining.folder), ends))


def _watch(joining: Joining, queries: Sequence[StreamingQuery], stop: threading.Event, console: Console) -> None:
    """Wait until a query fails, its stream ends, or `stop` is set. Print the faults of the stream once each."""
    checked, said = time.monotonic(), set[str]()
    while all(query.isActive for query in queries) and not stop.wait(POLL_SECONDS):
        if joining.ends and has_ended(joining.root, StreamStatus.read(joining.folder)):
            return
        if time.monotonic() - checked >= CHECK_SECONDS:
            checked = time.monotonic()
            found = stream_faults(joining.spec, joining.root, StreamStatus.read(joining.folder))
            for subject in found.keys() - said:
                console.print(f"warning: {found[subject]}")
            said = set(found)


def _failure(queries: Sequence[StreamingQuery]) -> Exception | None:
    return next((error for query in queries if (error := query.exception()) is not None), None)


def has_ended(root: UPath, status: StreamStatus | None) -> bool:
    """Return whether a stream has ended with everything that is in its folders."""
    read = ReadFiles.load(joiner_folder(root))
    return status is not None and status.ended and not any(read.unread(root, side) for side in SIDES)


def summary(first: StreamStatus | None, last: StreamStatus | None, ends: bool) -> str:
    """Say in one line what a run has done.

    Args:
        first: The status before the run; None if there was none.
        last: The status after it.
        ends: Whether the run ended the stream.
    """
    before, after = (Counter(status.counts if status else {}) for status in (first, last))
    events, examples = (sum(after[of] - before[of] for of in names) for names in (SIDES, ("examples",)))
    batches = (last.batch if last else -1) - (first.batch if first else -1)
    done = f"{batches:,} batches, {events:,} events and {examples:,} examples in this run"
    if ends and last is not None and last.ended:
        return f"{done}; every event that has arrived is joined"
    return f"stopped: {done}; the same command continues there"


if __name__ == "__main__":
    main()
