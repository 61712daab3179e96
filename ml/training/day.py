"""A day of training: from yesterday's snapshot and today's MDS data to today's snapshot, one pass in time order.

Here is what happens to a partition; how a step is made is `ml.training.loop`. The result of a day depends on the recipe,
the day's data and yesterday's snapshot alone, however often the way there was interrupted.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from datetime import date, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from upath import UPath

from ml.artifacts.snapshot import digest, load_snapshot, save_snapshot
from ml.catalog.spec import DatasetSpec
from ml.datasets.reader import BlockReader
from ml.distributed.process_group import Ranks
from ml.lake import Lake
from ml.recipes.recipe import Recipe, recipe_of
from ml.schema import FeatureSchema
from ml.training.checkpoint import Checkpoints
from ml.training.early_stop import stop_of
from ml.training.load import stage_of
from ml.training.loop import Step, TrainReport, train
from ml.training.progress import progress_of
from ml.training.state import TrainState, new_state

if TYPE_CHECKING:
    from ml.tracking.run import Tracker


EVALUATION_BATCH = 8192


@dataclass(frozen=True)
class TrainedDay:
    """What `train_day` wrote. folder: the partition; parent: the day it was warm-started from, None on the first.

    resumed_at: rows of the day that an earlier, interrupted run had trained on. digest: of the snapshot.
    """

    dataset: str
    model: str
    day: str
    folder: UPath
    parent: str | None
    recipe: Recipe
    report: TrainReport
    resumed_at: int
    rows_so_far: int
    digest: str

    @property
    def metrics(self) -> dict[str, float]:
        """Figures of the day, by name; loss is missing where the day has no rows."""
        report = self.report
        figures = {
            "loss": report.loss,
            "rows": report.rows,
            "steps": report.steps,
            "rows_touched": report.rows_touched,
            "rows_so_far": self.rows_so_far,
            "stopped_early": float(report.stopped_early) if self.recipe.early_stop else None,
            **self._of_tables(),
            "samples_per_second": report.samples_per_second,
            "seconds_waiting": report.seconds_waiting,
            "seconds_computing": report.seconds_computing,
        } | {f"learning_rate_{name}": rate for name, rate in report.learning_rates.items()}
        return {name: float(figure) for name, figure in figures.items() if figure is not None}

    def _of_tables(self) -> dict[str, float | None]:
        tables = self.report.tables.values()
        looked_up = sum(figures.looked_up for figures in tables)
        return {
            "table_rows": sum(figures.rows for figures in tables),
            "table_megabytes": sum(figures.nbytes for figures in tables) / 1e6,
            "rows_admitted": sum(figures.admitted for figures in tables),
            "rows_expired": sum(figures.expired + figures.evicted for figures in tables),
            "unknown_id_rate": sum(figures.unknown for figures in tables) / looked_up if looked_up else None,
        }


def train_day(
    spec: DatasetSpec,
    day: str,
    lake: Lake,
    model: str | None = None,
    *,
    recipe: Recipe | None = None,
    tracker: Tracker | None = None,
    progress: bool = True,
    ranks: Ranks | None = None,
    cache: str | None = None,
    cache_limit: str | None = None,
) -> TrainedDay:
    """Train on one day and write the partition `tuned_models/<model>/<dataset>/<day>`: a snapshot and its manifest.

    The first day of the dataset begins from scratch, every other from the snapshot of the day before. model: one of those
    that the dataset names, by default the first. recipe: the model's own by default. A run that was killed, or stopped by
    SIGINT or SIGTERM, goes on at its last checkpoint when it is called again, and ends with the very bytes of an undisturbed
    one. ranks: the processes that train it together, each of which makes this call: they share batches and tables out among
    them, each writes its part of a checkpoint, and the first alone writes the partition and speaks to tracker and screen.
    cache, cache_limit: as `BlockReader` has them.

    Raises `MissingPartition` (the day's data or the day before), `SnapshotMismatch` (trained under another schema, or a
    recipe of other shapes), `ValueError` (no day of this dataset), `DivergedError`.
    """
    model = model or spec.primary
    recipe, stage = recipe or recipe_of(spec, model), stage_of(model)
    schema = FeatureSchema.of(spec)
    parent = previous_day(spec, day)
    in_time_order = partial(BlockReader, lake, spec, [day], order="time", cache=cache, cache_limit=cache_limit)
    reader = _of_rank(in_time_order, recipe, ranks)
    identity = {
        "recipe": recipe.fingerprint,
        "schema": schema.fingerprint,
        "data": {key: value for key, value in reader.state_dict().items() if key != "batches"},
        "parent": lake.manifest(stage, spec.name, parent)["digest"] if parent else None,
    }
    if ranks is not None and recipe.embeddings == "independent":
        identity["processes"] = ranks.size  # each goes on with tables of its own
    made_from = lake.lineage(spec.name, [("mds_datasets", day), *([(stage, parent)] if parent else [])])
    checkpoints = Checkpoints(lake, spec.name, model, day, identity, recipe.checkpoints, ranks)
    state = checkpoints.resume(recipe, schema, reader) or _begin(lake, spec, model, parent, recipe, schema, ranks)
    resumed_at = state.running.rows if state.running else 0
    stop = None
    if recipe.early_stop:
        held_out = in_time_order(splits=["validation"], batch_size=EVALUATION_BATCH)
        stop = stop_of(recipe.early_stop, lambda: held_out, len(reader))
    first = ranks is None or ranks.rank == 0
    with (
        tracker.follow(lake, spec, model, day, recipe, len(reader)) if tracker and first else nullcontext() as run,
        progress_of(f"{spec.name} {model} {day}", reader.rows, resumed_at, progress and first) as show,
    ):

        def on_step(current: TrainState, step: Step) -> None:
            if run:
                run.step(step)
            checkpoints.after_step(current, reader)

        with checkpoints.on_signals():
            report = train(state, reader, total_steps=len(reader), progress=show, on_step=on_step, stop=stop, ranks=ranks)
        whole = state if ranks is None else checkpoints.united(state, reader)
        if whole is not None:
            report = replace(report, rows_touched=whole.rows_touched(), tables=whole.stats())
        place = lake.partition(stage, spec.name, day)
        trained = TrainedDay(spec.name, model, day, place, parent, recipe, report, resumed_at, state.rows, "")
        if whole is not None:
            with lake.write(stage, spec.name, day) as folder:
                save_snapshot(whole, folder)
                trained = replace(trained, digest=digest(folder))
                lake.write_manifest(folder, _manifest(trained, identity) | made_from)
        checkpoints.discard()
        if run:
            run.finish(trained)
    return trained


def previous_day(spec: DatasetSpec, day: str) -> str | None:
    """The day before, None for the dataset's first. Raises `ValueError` for a day out of its range."""
    first, last, asked = spec.partitions.start, spec.partitions.end, date.fromisoformat(day)
    if asked < first or (last is not None and asked > last):
        raise ValueError(f"{spec.name} has no day {day}: its days are {first} to {last or 'today'}")
    return None if asked == first else (asked - timedelta(days=1)).isoformat()


def _of_rank(read: partial[BlockReader], recipe: Recipe, ranks: Ranks | None) -> BlockReader:
    """This rank's part of every batch. Raises `ValueError` where batches can not be shared evenly."""
    rank, size = (ranks.rank, ranks.size) if ranks else (0, 1)
    if recipe.batch_size % size:
        raise ValueError(f"recipe: batch_size: {recipe.batch_size} rows can not be shared out evenly among {size} processes")
    return read(splits=recipe.splits, batch_size=recipe.batch_size // size, rank=rank, world_size=size)


def _begin(
    lake: Lake,
    spec: DatasetSpec,
    model: str,
    parent: str | None,
    recipe: Recipe,
    schema: FeatureSchema,
    ranks: Ranks | None,
) -> TrainState:
    if parent is None:
        state = new_state(recipe, schema, ranks)
    else:
        state = load_snapshot(lake.require(stage_of(model), spec.name, parent), recipe=recipe, schema=schema, ranks=ranks)
    state.begin_pass()
    return state


def _manifest(trained: TrainedDay, identity: dict[str, Any]) -> dict[str, Any]:
    return {
        "dataset": trained.dataset,
        "model": trained.model,
        "day": trained.day,
        "parent_day": trained.parent,
        "digest": trained.digest,
        "fingerprint": identity["schema"],
        "recipe_fingerprint": identity["recipe"],
        "recipe": trained.recipe.model_dump(mode="json"),
        "trained_from": identity,
        "resumed_at": trained.resumed_at,
        "metrics": trained.metrics,
        "tables": {name: asdict(figures) for name, figures in trained.report.tables.items()},
    }
