"""`make online`: trains a model online on the days of a log, publishes the updates, and shows each slice."""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import click
from rich.console import Console

from assets.policy import key
from ml.catalog.spec import DatasetSpec
from ml.days import yesterday
from ml.lake import BusyPartition, Lake
from ml.online.live import LivePublisher, LiveSlice
from ml.online.ranking import POPULARITY
from ml.stages import MDS_DATASETS, online_updates, stages_of, tuned_models
from ml.sync.folder import SyncFolder, sync_folder
from ml.sync.probe import Probe
from ml.sync.receiver import Receiver
from orchestration.arriving import follow_stream, stream_of
from orchestration.demo import link_logs
from orchestration.deployments import lake_root, sync_root
from orchestration.materialize import materialize
from orchestration.replay import DayFailed, quiet_console, replay, the_dataset
from orchestration.slice_table import Columns, Show, line_of, number, slices_shown

RECEIVER = "make-online"
POLL = 0.2  # seconds between two polls of the receiver


def columns_of(metric: str = "auc") -> Columns:
    """Return the columns of a slice, for a metric of `LiveSlice`."""
    popular = () if metric == "auc" else (("popular", 7),)
    return (
        *(("until (UTC)", 16), ("slice", 5), ("rows/s", 8), (f"{metric.replace('auc', 'AUC')} online", 16), ("stale", 7)),
        *(("retrained", 9), *popular, ("day: online", 11), ("stale", 7), *popular),
        *(("rows sent", 9), ("kB", 8), ("lag s", 6)),
    )


def header(metric: str = "auc") -> str:
    """Return the names of the columns of `line`, for a metric of `LiveSlice`."""
    return line_of(columns_of(metric), [title for title, _ in columns_of(metric)])


def next_day(spec: DatasetSpec, model: str, lake: Lake) -> str | None:
    """Return the day after the last one that was trained online, or the first day after the demo; None after the log's end."""
    days = spec.days(yesterday(spec.zone))
    done = [day for day in lake.days(online_updates(model), spec.name) if day in days]
    if not done:
        return days[min(spec.demo_days, len(days) - 1)]
    following = days[days.index(done[-1]) + 1 :]
    return following[0] if following else None


def line(shown: LiveSlice) -> str:
    """Format a slice as a line below `header`."""
    return line_of(columns_of(shown.metric), cells(shown))


def cells(shown: LiveSlice) -> list[str]:
    """Format a slice as cells below `columns_of`."""
    sent = shown.published.manifest if shown.published else None
    popular = () if shown.metric == "auc" else (POPULARITY,)
    return [
        f"{shown.until:%Y-%m-%d %H:%M}",
        f"{shown.number + 1}",
        f"{shown.rows_per_second:,.0f}",
        *(number(shown.score.get(name)) for name in ("online", "stale", "retrained", *popular)),
        *(number(shown.score_so_far.get(name)) for name in ("online", "stale", *popular)),
        f"{sent.rows if sent else 0:,}",
        f"{(sent.nbytes if sent else 0) / 1e3:,.0f}",
        f"{shown.receiver.lag_wall_seconds:.1f}",
    ]


@contextmanager
def following(folder: SyncFolder, probe: Probe | None) -> Iterator[Receiver]:
    """Let a receiver follow a folder in a thread of its own inside the block.

    At its end, the receiver has the last version. It is no longer registered then, because it serves nothing any more.
    """
    receiver, stop = Receiver(folder, RECEIVER, probe), threading.Event()
    thread = threading.Thread(target=receiver.follow, args=(stop, POLL), name="receiver", daemon=True)
    thread.start()
    try:
        yield receiver
    finally:
        stop.set()
        thread.join()
        receiver.poll()
        folder.drop(RECEIVER)


def prepare(spec: DatasetSpec, model: str, day: str, lake: Lake) -> None:
    """Make what a day of online training reads: the daily models until the day before, and the data of the day."""
    before = [known for known in spec.days(yesterday(spec.zone)) if known < day]
    if not before or not lake.has(tuned_models(model), spec.name, before[-1]):
        try:
            replay(spec, before)
        except DayFailed as error:
            raise click.ClickException(str(error)) from error
    if lake.has(MDS_DATASETS, spec.name, day):
        return
    made = stages_of(spec)
    materialize(spec, day, [key(spec, stage) for stage in made[: made.index(MDS_DATASETS) + 1]])


@click.command()
@click.argument("dataset", default="synthetic")
@click.option("--logs", help="Folder of the dataset's raw logs.")
@click.option("--model", help="One of the dataset's models; by default the first.")
@click.option("--days", type=click.IntRange(min=1), help="Number of days to train online; by default 1.")
@click.option(
    "--speed",
    type=click.FloatRange(min=0),
    help="Seconds of the log that are replayed in a second; by default, and with 0, as fast as possible.",
)
@click.option("--slices", type=click.IntRange(min=1), help="Slices of a day; by default the recipe's online.slices.")
def main(dataset: str, logs: str | None, model: str | None, days: int | None, speed: float | None, slices: int | None) -> None:
    """Train a model of DATASET online, from the day after the last one on, and publish the updates.

    The log's days are replayed in time order. If the dataset has a stream folder, the rows that arrive there are followed
    instead. Ctrl-C stops after a checkpoint, and the same command resumes there.
    """
    quiet_console()
    from ml.online.day import OnlineOptions, online_day
    from ml.online.probe_set import probe_day, probe_of
    from ml.online.ranking import ranked_features
    from ml.recipes.stored import recipe_in_use

    spec = the_dataset(dataset)
    link_logs(spec, logs)
    model = model or spec.primary
    if model not in spec.models:
        raise click.BadParameter(f"{dataset} has no model {model!r}; it has {', '.join(spec.models)}")
    lake, console = Lake.at(lake_root()), Console(highlight=False, soft_wrap=True)
    folder = sync_folder(sync_root(), spec.name, model)
    if (stream := stream_of(spec)) is not None:
        if days is not None or speed is not None or slices is not None:
            raise click.UsageError(
                f"{stream.root} exists, so arriving rows are followed; --days, --speed and --slices (DAYS, SPEED and SLICES of "
                "make) are options of a replay of the log"
            )
        newest = probe_day(lake, spec)
        probe = probe_of(lake, spec, recipe_in_use(lake, spec, model, newest)) if newest else None
        with following(folder, probe) as receiver:
            follow_stream(spec, model, lake, stream, folder, receiver, console)
        return
    for _ in range(days or 1):
        day = next_day(spec, model, lake)
        if day is None:
            console.print(f"every day of {spec.name} was trained online; the last one is in {online_updates(model)}")
            return
        console.print(f"{spec.name}/{model}: {day}, packages in {folder.root}")
        prepare(spec, model, day, lake)
        recipe = recipe_in_use(lake, spec, model, day)
        if slices:
            online = recipe.online.model_copy(update={"slices": slices, "minutes": None})
            recipe = recipe.model_copy(update={"online": online})
        columns = columns_of("recall@20" if ranked_features(lake, spec, day, recipe) else "auc")
        title = f"{spec.name}/{model} of {day}"
        with (
            following(folder, probe_of(lake, spec, recipe, day)) as receiver,
            slices_shown(console, columns, title, receiver) as show,
        ):

            def on_slice(shown: LiveSlice, show: Show = show) -> None:
                sent = shown.published.manifest if shown.published else None
                show(cells(shown), shown.rows, sent.rows if sent else 0, sent.nbytes if sent else 0)

            live = LivePublisher(spec, model, day, lake, folder, receiver, speed or 0.0, on_slice=on_slice)
            options = OnlineOptions(recipe if slices else None, progress=False, observer=live)
            try:
                done = online_day(spec, day, lake, model, options)
            except KeyboardInterrupt:
                logging.getLogger("evergreen").info("stopped; the same command resumes at the last checkpoint")
                return
            except BusyPartition as error:
                raise click.ClickException(str(error)) from error
        name = done.record.headline.replace("auc", "AUC")
        scores = ", ".join(f"{system} {of:.4f}" for system, of in done.record.so_far().items() if of is not None)
        console.print(f"{day}: {name} {scores}; {done.manifest['synced']['bytes'] / 1e6:.1f} MB sent; state in {done.folder}")


if __name__ == "__main__":
    main()
