"""Training on arriving rows for `make online`: follows the stream folder of a dataset until Ctrl-C, and shows each slice."""

import logging
from datetime import UTC, datetime

import click
from rich.console import Console
from upath import UPath

from ml.catalog.spec import DatasetSpec
from ml.lake import BusyPartition, Lake, MissingPartition
from ml.metrics import auc
from ml.online.arriving import follow
from ml.online.arriving_day import ArrivingOptions, TrainedSlice
from ml.online.stream import LostFile, StreamFolder, stream_folder
from ml.sync.folder import SyncFolder
from ml.sync.receiver import Receiver
from orchestration.deployments import home, landing_root
from orchestration.signals import stopped_by_signals
from orchestration.slice_table import number, slices_shown

log = logging.getLogger("evergreen")
COLUMNS = (
    *(("until (UTC)", 16), ("slice", 5), ("rows/s", 8), ("AUC online", 10), ("stale", 7), ("rows sent", 9), ("kB", 8)),
    *(("version", 7), ("lag s", 6), ("quarantined", 11)),
)


def stream_of(spec: DatasetSpec) -> StreamFolder | None:
    """Return the stream of a dataset; None if it has none.

    The stream of a dataset with two logs exists before its first example: once impressions or actions arrive for `make join`.
    """
    folder = stream_folder(UPath(str(home())), spec.name)
    if not (folder.exists() or (spec.actions is not None and folder.parent.exists())):
        return None
    return StreamFolder.of(spec, folder)


def cells(done: TrainedSlice, receiver: Receiver) -> list[str]:
    """Format a slice as cells below `COLUMNS`."""
    result, sent, status = done.result, done.published, receiver.status
    scores = {name: auc(result.labels, found) for name, found in result.predictions.items()}
    return [
        f"{datetime.fromtimestamp(result.events[1] / 1e6, UTC):%Y-%m-%d %H:%M}",
        f"{result.number + 1}",
        f"{len(result.labels) / max(sum(done.seconds.values()), 1e-9):,.0f}",
        *(number(scores.get(name)) for name in ("online", "stale")),
        f"{sent.rows:,}",
        f"{sent.nbytes / 1e3:,.0f}",
        f"{status.version if status.version is not None else '–'}",
        f"{status.lag_wall_seconds:.1f}",
        f"{done.quarantined.total():,}",
    ]


def follow_stream(
    spec: DatasetSpec, model: str, lake: Lake, stream: StreamFolder, folder: SyncFolder, receiver: Receiver, console: Console
) -> None:
    """Train on arriving rows until Ctrl-C, and print each slice.

    Raises:
        click.ClickException: The state to start from is missing, or another process trains the day.
    """
    console.print(f"{spec.name}/{model}: rows that arrive in {stream.root}, packages in {folder.root}; Ctrl-C stops")
    if spec.actions is not None and not stream.root.exists():
        console.print(f"{stream.root} has no examples yet; `make join DATASET={spec.name}` joins them")
    options = ArrivingOptions(on_message=console.print)
    logs = f"{landing_root()}/{spec.name}"
    with stopped_by_signals() as stop, slices_shown(console, COLUMNS, f"{spec.name}/{model}", receiver) as show:
        try:
            for done in follow(spec, lake, stream, folder, logs, stop.wait, model, options):
                show(cells(done, receiver), len(done.result.labels), done.published.rows, done.published.nbytes)
        except (MissingPartition, BusyPartition, LostFile) as error:
            raise click.ClickException(str(error)) from error
    log.info("stopped after a checkpoint; the same command resumes there")
