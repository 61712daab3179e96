"""`make join`: joins the arriving files of two logs into the stream of examples that `make online` follows."""

from __future__ import annotations

import time
from datetime import UTC, datetime

import click
from rich.console import Console
from upath import UPath

from ml.catalog.spec import DatasetSpec
from ml.joiner.blocks import SIDES
from ml.joiner.status import StreamStatus, stuck
from ml.logs.arriving import arriving_files
from orchestration.arriving import stopped_by_signals
from orchestration.deployments import home
from orchestration.replay import quiet_console, the_dataset

HEADER = (
    f"{'joined until (UTC)':19} {'batch':>6} {'events':>11} {'examples':>11} {'match rate':>10} {'repeated':>9} {'late':>7} "
    f"{'in state':>11} {'MB':>7} {'lag min':>7}"
)
POLL_SECONDS = 1.0
CHECK_SECONDS = 60.0


def line(status: StreamStatus) -> str:
    """Format a batch as a line below `HEADER`. Counts are totals since the stream was started first."""
    known = status.watermark >= 0
    until = f"{datetime.fromtimestamp(status.watermark / 1e6, UTC):%Y-%m-%d %H:%M}" if known else "–"
    counts = status.counts
    events = counts.get("impressions", 0) + counts.get("actions", 0)
    rate = "–" if status.match_rate is None else f"{status.match_rate:.4f}"
    repeated = counts.get("repeated impressions", 0) + status.actions.get("repeated", 0)
    return (
        f"{until:19} {status.batch:>6} {events:>11,} {counts.get('examples', 0):>11,} {rate:>10} {repeated:>9,} "
        f"{status.late:>7,} {status.state_rows:>11,} {status.state_bytes / 1e6:>7,.1f} {status.watermark_lag / 60:>7,.0f}"
    )


@click.command()
@click.argument("dataset")
@click.option(
    "--ends",
    is_flag=True,
    help="The stream ends with the files that are there: write the last examples too, then stop. Later events are late.",
)
def main(dataset: str, ends: bool) -> None:
    """Join the impressions and actions of DATASET that arrive in its stream folder, until Ctrl-C.

    The same command continues where it stopped.
    """
    quiet_console()
    spec, console = the_dataset(dataset), Console(highlight=False, soft_wrap=True)
    if spec.actions is None:
        raise click.ClickException(f"{dataset} has one log; a dataset whose entry declares `actions` has two to join")
    join_stream(spec, UPath(str(home())) / "stream" / spec.name, ends, console)


def join_stream(spec: DatasetSpec, root: UPath, ends: bool, console: Console) -> None:
    """Join a stream until Ctrl-C, or to its end, and print each batch.

    Raises:
        click.ClickException: The state belongs to another catalog entry, or a batch failed.
    """
    from ml.compute.spark import JavaMissing, start_session
    from ml.joiner.service import ChangedEntry, Joining, start_join

    joining = Joining(spec, root, ends=ends)
    assert spec.actions is not None
    console.print(f"{spec.name}: files in {root}/impressions and {root}/actions; examples in {root}/examples; Ctrl-C stops")
    with stopped_by_signals() as stop:
        try:
            query = start_join(joining, start_session(), on_batch=lambda status: console.print(line(status)))
        except (ChangedEntry, JavaMissing) as error:
            raise click.ClickException(str(error)) from error
        console.print(HEADER)
        checked, said = time.monotonic(), set[str]()
        while query.isActive and not stop.wait(POLL_SECONDS):
            status = StreamStatus.read(joining.folder) if ends else None
            if status and status.ended and all(arriving_files(root / side)[-1:] <= [status.files[side]] for side in SIDES):
                break
            if time.monotonic() - checked >= CHECK_SECONDS:
                checked = time.monotonic()
                reasons = stuck(root, StreamStatus.read(joining.folder), spec.actions.lateness)
                found = {reason.partition(" ")[0]: reason for reason in reasons}
                for subject in found.keys() - said:
                    console.print(f"warning: {found[subject]}")
                said = set(found)
        failed = query.exception()
        query.stop()
    if failed is not None:
        raise click.ClickException(f"{spec.name}: a batch failed; the same command repeats it: {failed}")
    console.print("stopped; the same command continues there" if not ends else "every event that has arrived is joined")


if __name__ == "__main__":
    main()
