"""`make store`: updates the online store of a dataset's feature tables from its stream folder.

With two logs, examples arrive after the longest wait of `actions`. A second store can follow the impressions as they arrive,
for the tables that read no label.
"""

import math
from datetime import UTC, datetime

import click
from rich.console import Console
from upath import UPath

from ml.catalog.spec import DatasetSpec
from ml.days import MICROSECONDS_PER_HOUR, MICROSECONDS_PER_MINUTE
from ml.features.online_store.environment import EXAMPLES, IMPRESSIONS, StoreInUse, store_folder
from ml.features.online_store.meta import Meta
from ml.features.online_store.plan import StorePlan
from ml.features.online_store.writer import StaleStore, StoreWriter
from ml.joiner.blocks import max_example_delay
from ml.online.feature_store import FOLLOWER, follow_features
from ml.online.stream import LostFile, StreamFolder, stream_folder
from orchestration.deployments import home
from orchestration.replay import quiet_console, the_dataset
from orchestration.signals import stopped_by_signals


def follow_store(spec: DatasetSpec, root: str, console: Console, *, rebuild: bool = False, stream: str = EXAMPLES) -> None:
    """Apply the stream of a dataset to its store until Ctrl-C, and print each part.

    Args:
        spec: The dataset.
        root: The Evergreen home, with the stream and the store.
        console: Where lines are printed.
        rebuild: Whether to begin at the start of the stream. Readers use the old store until the new one is complete.
        stream: The folder to follow: `examples`, or `impressions` for the tables that read no label of `actions`.

    Raises:
        click.ClickException: The entry has no feature tables for the stream, the store belongs to other tables or to another
            process, or a file of the stream is missing.
    """
    if not spec.feature_tables:
        raise click.ClickException(f"{spec.name}: the catalog entry has no feature_tables, so there is nothing to store")
    if stream == IMPRESSIONS and spec.actions is None:
        raise click.ClickException(f"{spec.name}: the catalog entry has no actions, so there are no impressions to follow")
    folder, plan = store_folder(root, spec.name, stream), StorePlan.of(spec, stream)
    if not plan.tables:
        raise click.ClickException(f"{spec.name}: all feature_tables read a label, which impressions do not have")
    log = spec.log if stream == IMPRESSIONS else spec.examples_log
    followed = StreamFolder(stream_folder(UPath(root), spec.name, stream), log)
    console.print(f"{spec.name}: rows that arrive in {followed.root}, store in {folder}; Ctrl-C stops")
    for warning in delay_warnings(spec) if stream == EXAMPLES else ():
        console.print(f"warning: {warning}")
    follower = FOLLOWER if stream == EXAMPLES else f"{FOLLOWER}-{stream}"
    try:
        with stopped_by_signals() as stop, StoreWriter(folder, plan, rebuild=rebuild) as writer:
            for part in follow_features(writer, followed, stop.wait, console.print, follower):
                state = part.state
                console.print(
                    f"{state.position['file'] if state.position else ''}: {part.rows:,} rows, {state.rows:,} in all, "
                    f"{state.late:,} late, {sum(part.quarantined.values()):,} quarantined{_incomplete(plan, state)}"
                )
    except (StoreInUse, StaleStore, LostFile) as error:
        raise click.ClickException(str(error)) from error


def delay_warnings(spec: DatasetSpec) -> list[str]:
    """Return a warning for each table whose events the daily features know before their examples are in the stream."""
    if spec.actions is None:
        return []
    delay, without_label = max_example_delay(spec.actions), StorePlan.of(spec, IMPRESSIONS).tables
    found = []
    for number, table in enumerate(spec.feature_tables):
        if (known := spec.known_after(table)) >= delay:
            continue
        found.append(
            f"the daily features know events of the table {table.name!r} after {_minutes(known)} minutes, and examples arrive "
            f"here up to {_minutes(delay)} minutes after their impression; set feature_tables.{number}.known_after_minutes: "
            f"{_minutes(delay)}{', or use `make store STREAM=impressions`' if table.name in without_label else ''}"
        )
    return found


def _minutes(span: int) -> str:
    return str(math.ceil(span / MICROSECONDS_PER_MINUTE))


def _incomplete(plan: StorePlan, state: Meta) -> str:
    """Say from when on the longest window is complete; empty if it is already."""
    hours = max(series.hours for series in plan.series)
    complete = state.began + round(hours * MICROSECONDS_PER_HOUR)
    if not state.rows or state.settled >= complete:
        return ""
    return f"; windows of {hours:g} hours are complete from {datetime.fromtimestamp(complete / 1e6, UTC):%Y-%m-%d %H:%M} UTC on"


@click.command()
@click.argument("dataset", default="synthetic")
@click.option("--rebuild", is_flag=True, help="Rebuild the store from the start of the stream.")
@click.option(
    "--stream",
    type=click.Choice([EXAMPLES, IMPRESSIONS]),
    default=EXAMPLES,
    help="The stream to follow: joined examples, or impressions as they arrive, for the tables that read no label.",
)
def main(dataset: str, rebuild: bool, stream: str) -> None:
    """Keep the online store of DATASET's feature tables current from its stream folder, until Ctrl-C."""
    quiet_console()
    follow_store(the_dataset(dataset), str(home()), Console(highlight=False, soft_wrap=True), rebuild=rebuild, stream=stream)


if __name__ == "__main__":
    main()
