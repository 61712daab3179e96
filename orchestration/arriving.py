"""Training on arriving rows for `make online`: follows the stream folder of a dataset until Ctrl-C, and shows each slice."""

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

import click
from rich.console import Console
from upath import UPath

from ml.catalog.spec import DatasetSpec
from ml.lake import BusyPartition, Lake, MissingPartition
from ml.metrics import auc
from ml.online.arriving import ArrivingOptions, TrainedSlice, follow
from ml.online.stream import LostFile, StreamFolder, stream_folder
from ml.sync.folder import SyncFolder
from ml.sync.receiver import Receiver
from orchestration.deployments import home, landing_root

log = logging.getLogger("evergreen")
HEADER = (
    f"{'until (UTC)':16} {'slice':>5} {'rows/s':>8} {'AUC online':>10} {'stale':>7} "
    f"{'rows sent':>9} {'kB':>8} {'version':>7} {'lag s':>6} {'quarantined':>11}"
)


def stream_of(spec: DatasetSpec) -> StreamFolder | None:
    """Return the stream of a dataset; None if it has none."""
    folder = stream_folder(UPath(str(home())), spec.name)
    return StreamFolder(folder, spec.examples_log, in_order=spec.label.negatives is not None) if folder.exists() else None


def line(done: TrainedSlice, receiver: Receiver) -> str:
    """Format a slice as a line below `HEADER`."""
    result, sent, status = done.result, done.published, receiver.status
    seconds = result.seconds["train"] + sent.seconds
    until = datetime.fromtimestamp(result.events[1] / 1e6, UTC)
    scores = {name: auc(result.labels, found) for name, found in result.predictions.items()}
    online, stale = ("–" if (of := scores.get(name)) is None else f"{of:.4f}" for name in ("online", "stale"))
    speed = len(result.labels) / max(seconds, 1e-9)
    return (
        f"{until:%Y-%m-%d %H:%M} {result.number + 1:>5} {speed:>8,.0f} {online:>10} {stale:>7} "
        f"{sent.rows:>9,} {sent.nbytes / 1e3:>8,.0f} {status.version if status.version is not None else '–':>7} "
        f"{status.lag_wall_seconds:>6.1f} {done.quarantined.total():>11,}"
    )


@contextmanager
def stopped_by_signals() -> Iterator[threading.Event]:
    """Yield an event that Ctrl-C or SIGTERM sets, inside the block."""
    stop = threading.Event()
    before = {number: signal.signal(number, lambda *_: stop.set()) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def follow_stream(
    spec: DatasetSpec, model: str, lake: Lake, stream: StreamFolder, folder: SyncFolder, receiver: Receiver, console: Console
) -> None:
    """Train on arriving rows until Ctrl-C, and print each slice.

    Raises:
        click.ClickException: The state to start from is missing, or another process trains the day.
    """
    console.print(f"{spec.name}/{model}: rows that arrive in {stream.root}, packages in {folder.root}; Ctrl-C stops")
    console.print(HEADER)
    options = ArrivingOptions(on_message=console.print)
    logs = f"{landing_root()}/{spec.name}"
    with stopped_by_signals() as stop:
        try:
            for done in follow(spec, lake, stream, folder, logs, stop.wait, model, options):
                console.print(line(done, receiver))
        except (MissingPartition, BusyPartition, LostFile) as error:
            raise click.ClickException(str(error)) from error
    log.info("stopped after a checkpoint; the same command resumes there")
