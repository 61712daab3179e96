"""`make store`: updates the online store of a dataset's feature tables from its stream folder."""

from datetime import UTC, datetime

import click
from rich.console import Console
from upath import UPath

from ml.catalog.spec import DatasetSpec
from ml.days import MICROSECONDS_PER_HOUR
from ml.features.online_store.environment import StoreInUse, store_folder
from ml.features.online_store.meta import Meta
from ml.features.online_store.plan import StorePlan
from ml.features.online_store.writer import StaleStore, StoreWriter
from ml.online.feature_store import follow_features
from ml.online.stream import LostFile, StreamFolder, stream_folder
from orchestration.deployments import home
from orchestration.replay import quiet_console, the_dataset
from orchestration.signals import stopped_by_signals


def follow_store(spec: DatasetSpec, root: str, console: Console, *, rebuild: bool = False) -> None:
    """Apply the stream of a dataset to its store until Ctrl-C, and print each part.

    Args:
        spec: The dataset.
        root: The Evergreen home, with the stream and the store.
        console: Where lines are printed.
        rebuild: Whether to begin at the start of the stream. Readers use the old store until the new one is complete.

    Raises:
        click.ClickException: The entry has no feature tables, the store belongs to other tables or to another process, or a
            file of the stream is missing.
    """
    if not spec.feature_tables:
        raise click.ClickException(f"{spec.name}: the catalog entry has no feature_tables, so there is nothing to store")
    stream = StreamFolder(stream_folder(UPath(root), spec.name), spec.examples_log)
    folder, plan = store_folder(root, spec.name), StorePlan.of(spec)
    console.print(f"{spec.name}: rows that arrive in {stream.root}, store in {folder}; Ctrl-C stops")
    try:
        with stopped_by_signals() as stop, StoreWriter(folder, plan, rebuild=rebuild) as writer:
            for part in follow_features(writer, stream, stop.wait, console.print):
                state = part.state
                console.print(
                    f"{state.position['file'] if state.position else ''}: {part.rows:,} rows, {state.rows:,} in all, "
                    f"{state.late:,} late, {sum(part.quarantined.values()):,} quarantined{_incomplete(plan, state)}"
                )
    except (StoreInUse, StaleStore, LostFile) as error:
        raise click.ClickException(str(error)) from error


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
def main(dataset: str, rebuild: bool) -> None:
    """Keep the online store of DATASET's feature tables current from its stream folder, until Ctrl-C."""
    quiet_console()
    follow_store(the_dataset(dataset), str(home()), Console(highlight=False, soft_wrap=True), rebuild=rebuild)


if __name__ == "__main__":
    main()
