"""A day of training: from the previous day's snapshot and the day's MDS data to the day's snapshot.

A day is one pass over its rows in time order. This module resumes the pass, writes checkpoints, shows progress, stops early and
writes the partition; `ml.training.loop` trains the steps. The result depends only on the recipe, the day's data and the
previous day's snapshot, however often training was interrupted.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

from ml.artifacts.snapshot import digest
from ml.artifacts.stored import require_model
from ml.catalog.spec import DatasetSpec
from ml.datasets.cache_config import CacheConfig
from ml.datasets.reader import BlockReader
from ml.distributed.process_group import Ranks
from ml.lake import Lake
from ml.recipes.recipe import Recipe
from ml.recipes.stored import recipe_in_use, start_of
from ml.schema import FeatureSchema
from ml.stages import MDS_DATASETS, advisor_recipes, tuned_models
from ml.stages import checkpoints as stage_of_checkpoints
from ml.training.checkpoint import Checkpoints
from ml.training.early_stop import EarlyStopping
from ml.training.first_state import first_state
from ml.training.keep import can_keep, copy_model, keep_model
from ml.training.passes import train_pass
from ml.training.progress import progress_of
from ml.training.report import Step, TrainedDay
from ml.training.state import TrainState
from ml.training.state_dict import load_snapshot, save_snapshot
from ml.training.tracker import Tracker


@dataclass(frozen=True)
class DayOptions:
    """Options of the training of a day. Every launcher passes them to all processes.

    Attributes:
        recipe: How the model is trained; by default the day's recipe in the lake, or else the declared one.
        tracker: Observes the training; none by default.
        progress: Whether to show a progress bar, or progress lines in the log.
        cache: Folder of this node through which a remote lake is read.
    """

    recipe: Recipe | None = None
    tracker: Tracker | None = None
    progress: bool = True
    cache: CacheConfig | None = None


def train_day(
    spec: DatasetSpec,
    day: str,
    lake: Lake,
    model: str | None = None,
    options: DayOptions | None = None,
    ranks: Ranks | None = None,
) -> TrainedDay:
    """Train on one day and write the partition `tuned_models/<model>/<dataset>/<day>`: a snapshot and its manifest.

    The first day of the dataset starts from scratch, every other day from the snapshot of the day before, or, if a tuning has
    changed the structure of the recipe, from the state that the tuning has trained on the days before. A day without rows to
    train on keeps that snapshot. A run that was killed, or stopped by SIGINT or SIGTERM, resumes at its last checkpoint in the
    next call, and writes the same bytes as an uninterrupted run.

    Args:
        spec: The dataset.
        day: `YYYY-MM-DD`.
        lake: Where data and models are stored.
        model: One of the dataset's models; by default the first.
        options: Recipe, tracker, progress and cache.
        ranks: The processes that train the day together. Each of them makes this call. They share batches and tables, and
            each writes its shard of a checkpoint. Only the first rank writes the partition, calls the tracker and shows
            progress.

    Returns:
        The trained day.

    Raises:
        MissingPartition: The day's data or the day before is missing.
        SnapshotMismatch: The day before was trained with another schema, or with a recipe that gives tensors other shapes.
        ValueError: The dataset has no such day, or its batches cannot be shared evenly among the ranks.
        DivergedError: The loss is not finite.
    """
    options = options or DayOptions()
    model = model or spec.primary
    recipe, stage = options.recipe or recipe_in_use(lake, spec, model, day), tuned_models(model)
    schema = FeatureSchema.of(spec)
    parent = spec.previous_day(day)
    daily = (stage, parent) if parent else None
    start = start_of(lake, spec, model, day) if options.recipe is None else daily
    in_time_order = partial(BlockReader, lake, spec, [day], order="time", cache=options.cache)
    reader = _reader_of_rank(in_time_order, recipe, ranks)
    identity = {
        "recipe": recipe.fingerprint,
        "schema": schema.fingerprint,
        "data": {key: value for key, value in reader.state_dict().items() if key != "batches"},
        "parent": lake.manifest(start[0], spec.name, start[1])["digest"] if start else None,
    }
    if ranks is not None and recipe.embeddings == "independent":
        identity["processes"] = ranks.size  # each process continues with its own tables
    inputs = [(MDS_DATASETS, day), *([start] if start else [])]
    if options.recipe is None and lake.has(advisor_recipes(model), spec.name, day):
        inputs.append((advisor_recipes(model), day))
    lineage = lake.lineage(spec.name, inputs)
    checkpoints = Checkpoints(lake, spec.name, stage_of_checkpoints(model), day, identity, recipe.checkpoints, ranks)
    if parent and start == daily and not reader.rows and can_keep(lake, spec, model, parent, recipe):
        kept = keep_model(lake, spec, model, day, parent, recipe)
        if ranks is None or ranks.rank == 0:
            copy_model(lake, kept, _manifest(kept, identity) | lineage)
        checkpoints.discard()
        return kept
    state = checkpoints.resume(recipe, schema, reader) or _begin(lake, spec, day, start, recipe, schema, ranks)
    resumed_at = state.running.rows if state.running else 0
    early_stopping = EarlyStopping.of(recipe, in_time_order, len(reader), ranks)
    first, tracker = ranks is None or ranks.rank == 0, options.tracker
    with (
        tracker.follow(lake, spec, model, day, recipe, len(reader)) if tracker and first else nullcontext() as observer,
        progress_of(f"{spec.name} {model} {day}", reader.rows, resumed_at, options.progress and first) as show,
    ):

        def after_step(step: Step) -> None:
            show(step)
            if observer:
                observer.step(step)
            checkpoints.after_step(state, reader)

        with checkpoints.on_signals():
            report = train_pass(
                state,
                reader,
                total_steps=len(reader),
                after_step=after_step,
                early_stopping=early_stopping,
                ranks=ranks,
            )
        whole = state if ranks is None else checkpoints.merged(state, reader)
        if whole is not None:
            report = replace(report, rows_touched=whole.rows_touched(), tables=whole.stats())
        folder = lake.partition(stage, spec.name, day)
        trained = TrainedDay(spec.name, model, day, folder, start, recipe, report, resumed_at, state.rows, "")
        if whole is not None:
            with lake.write(stage, spec.name, day) as folder:
                save_snapshot(whole, folder)
                trained = replace(trained, digest=digest(folder))
                lake.write_manifest(folder, _manifest(trained, identity) | lineage)
        checkpoints.discard()
        if observer:
            observer.finish(trained)
    return trained


def _reader_of_rank(read: partial[BlockReader], recipe: Recipe, ranks: Ranks | None) -> BlockReader:
    """Create the reader of this rank's part of every batch. Raises `ValueError` if batches cannot be shared evenly."""
    rank, size = (ranks.rank, ranks.size) if ranks else (0, 1)
    if recipe.batch_size % size:
        raise ValueError(f"recipe: batch_size: {recipe.batch_size} rows cannot be shared evenly among {size} processes")
    return read(splits=recipe.splits, batch_size=recipe.batch_size // size, rank=rank, world_size=size)


def _begin(
    lake: Lake,
    spec: DatasetSpec,
    day: str,
    start: tuple[str, str] | None,
    recipe: Recipe,
    schema: FeatureSchema,
    ranks: Ranks | None,
) -> TrainState:
    if start is None:
        state = first_state(lake, spec, day, recipe, ranks)
    else:
        folder = require_model(lake, start[0], spec.name, start[1])
        state = load_snapshot(folder, recipe=recipe, schema=schema, ranks=ranks)
    state.begin_pass()
    return state


def _manifest(trained: TrainedDay, identity: dict[str, Any]) -> dict[str, Any]:
    return {
        "dataset": trained.dataset,
        "model": trained.model,
        "day": trained.day,
        "base": "/".join(trained.base) if trained.base else None,
        "digest": trained.digest,
        "fingerprint": identity["schema"],
        "recipe_fingerprint": identity["recipe"],
        "recipe": trained.recipe.model_dump(mode="json"),
        "trained_from": identity,
        "resumed_at": trained.resumed_at,
        "kept_from": trained.kept_from,
        "metrics": trained.metrics,
        "tables": {name: asdict(stats) for name, stats in trained.report.tables.items()},
    }
