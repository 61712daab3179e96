"""A day of online training: the day's examples in time order, cut into slices, each predicted before it is trained on.

The daily models (`tuned_models`) never read online states. The result depends only on the recipe, the day's data and the states
in the lineage, however often training was interrupted.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

from upath import UPath

from ml.artifacts.snapshot import Tensors, below
from ml.catalog.spec import DatasetSpec
from ml.datasets.cache_config import CacheConfig
from ml.datasets.reader import BlockReader
from ml.datasets.slices import DaySlice
from ml.days import MICROSECONDS_PER_MINUTE, day_bounds
from ml.lake import Lake
from ml.online.loop import ONLINE, Slice, SliceResult, online_slices
from ml.online.partition import write_online_day
from ml.online.probe_set import probe_day
from ml.online.ranking import METRICS as RANKED
from ml.online.ranking import SliceRanking, current_of, ranked_features
from ml.online.rates import online_rates
from ml.online.record import DayRecord
from ml.online.rivals import Rivals, predictions_of
from ml.online.serving import SyncStats
from ml.online.serving_of_day import DayServing, ServingOfDay
from ml.online.start import Run, begin_state, start_online
from ml.recipes.recipe import Recipe
from ml.recipes.stored import recipe_in_use
from ml.schema import FeatureSchema
from ml.stages import CLEANED_FEATURES, MDS_DATASETS, advisor_recipes, online_checkpoints, online_updates
from ml.sync.folder import SyncFolder
from ml.training.checkpoint import Checkpoints
from ml.training.progress import progress_of
from ml.training.state import TrainState

SERVING, RECORD, RANKING = "serving/", "record/", "ranking/"
_NAP = 0.2  # longest sleep between two checks for signals, in seconds


@dataclass(frozen=True)
class OnlineOptions:
    """Options of a day of online training.

    Attributes:
        recipe: How the model is trained; by default the day's recipe in the lake, or else the declared one.
        progress: Whether to show a progress bar, or progress lines in the log.
        cache: Folder of this node through which a remote lake is read.
        observer: Follows the day: publishes its synchronisations, shows its results, or sets its pace. It does not change what
            is written.
    """

    recipe: Recipe | None = None
    progress: bool = True
    cache: CacheConfig | None = None
    observer: Observer | None = None


class Observer(Protocol):
    """Follows a day of online training. Calls are made in this thread, between the steps of training."""

    @property
    def folder(self) -> SyncFolder:
        """Where servers find the packages of the day."""
        ...

    def begin(self, state: TrainState, run: Run, record: DayRecord, serving: DayServing) -> None:
        """The day begins, or resumes at a checkpoint; `run.version` is the version of the serving model."""
        ...

    def synced(self, stats: SyncStats, serving: DayServing, learned: tuple[int, int] | None) -> None:
        """The serving model has applied a delta; `learned` is the span of events that it has learned from, if there is one."""
        ...

    def wait(self) -> float:
        """Return the seconds until the next slice may be trained on."""
        ...

    def trained(self, result: SliceResult) -> None:
        """A slice was predicted and trained on."""
        ...

    def end(self, state: TrainState, learned: tuple[int, int] | None) -> None:
        """The day was written to the lake; `learned` is the span of events of its last slice."""
        ...


@dataclass(frozen=True)
class OnlineDay:
    """A day of online training in the lake.

    Attributes:
        folder: The partition that was written.
        record: What was measured.
        resumed_at: Number of slices that an earlier, interrupted run had trained on.
        manifest: The manifest of the partition.
    """

    folder: UPath
    record: DayRecord
    resumed_at: int
    manifest: dict[str, Any]

    @property
    def metrics(self) -> dict[str, float]:
        """Metrics of the day by name, without undefined ones."""
        scores, synced = self.manifest["scores"], self.manifest["synced"]
        names = ("auc", "log_loss", "calibration", "age_seconds")
        metrics = {f"{metric}_{model}": of[metric] for model, of in scores.items() for metric in names}
        metrics |= {f"auc_gain_over_{other}": of["auc"]["value"] for other, of in self.manifest["gains"].items() if "auc" in of}
        ranking = self.manifest["ranking"]
        for system, of in {**ranking["models"], **ranking["sources"]}.items() if ranking else ():
            metrics |= {f"{metric.replace('@', '_at_')}_{system}": of[metric] for metric in RANKED}
        metrics |= {"loss": self.manifest["loss"], "slices": len(self.record.slices), "rows": self.record.rows}
        metrics |= {"rows_synced": synced["rows"], "bytes_synced": synced["bytes"]}
        metrics |= {"samples_per_second": self.manifest["samples_per_second"]}
        return {name: float(value) for name, value in metrics.items() if value is not None}


def online_day(
    spec: DatasetSpec, day: str, lake: Lake, model: str | None = None, options: OnlineOptions | None = None
) -> OnlineDay:
    """Train online on one day, and write the partition `online_updates/<model>/<dataset>/<day>`.

    The partition has a snapshot of the state at the end of the day, from which the next day continues, and the files of
    `ml.online.record`. The daily model of the day before (`retrained`), and the one that was served when the run began
    (`stale`), predict the same slices. A day without rows keeps the state. A run that was killed, or stopped by SIGINT or
    SIGTERM, resumes at its last checkpoint in the next call, and writes the same bytes as an uninterrupted run.

    Args:
        spec: The dataset.
        day: `YYYY-MM-DD`.
        lake: Where data and models are stored.
        model: One of the dataset's models; by default the first.
        options: Recipe, progress and cache.

    Returns:
        The trained day.

    Raises:
        BusyPartition: Another process is training the day.
        MissingPartition: The day's data, or the state to start from, is missing.
        SnapshotMismatch: The state to start from was trained with another schema.
        DivergedError: The loss is not finite.
    """
    model = model or spec.primary
    with lake.write(online_updates(model), spec.name, day) as staging:  # from the start, to exclude other trainers
        done, finish = _train(spec, day, lake, model, options or OnlineOptions(), staging)
    finish()
    return done


def _train(
    spec: DatasetSpec, day: str, lake: Lake, model: str, options: OnlineOptions, staging: UPath
) -> tuple[OnlineDay, Callable[[], None]]:
    """Train a day, and write its partition to a staging folder. Returns what to call when the partition is in the lake."""
    recipe, schema = options.recipe or recipe_in_use(lake, spec, model, day), FeatureSchema.of(spec)
    start = start_online(lake, spec, model, day, recipe)
    rivals = Rivals.of(lake, spec, model, day, start.run)
    features = ranked_features(lake, spec, day, recipe)
    size = recipe.online.batch_size or recipe.batch_size
    reader = BlockReader(lake, spec, [day], splits=recipe.splits, batch_size=size, order="time", cache=options.cache)
    stored_recipe = (
        [] if options.recipe or not lake.has(advisor_recipes(model), spec.name, day) else [(advisor_recipes(model), day)]
    )
    states = {*([start.place] if start.place else ()), *rivals.places.values()}
    probed = [(MDS_DATASETS, of)] if recipe.online.sync.probe and (of := probe_day(lake, spec, day)) else []
    ranked = [(CLEANED_FEATURES, of) for of in features]
    lineage = lake.lineage(spec.name, [(MDS_DATASETS, day), *probed, *stored_recipe, *sorted(states), *ranked])
    identity = {
        "recipe": recipe.fingerprint,
        "online": recipe.online.fingerprint,
        "schema": schema.fingerprint,
        "data": {key: value for key, value in reader.state_dict().items() if key != "batches"},
        "states": {"/".join(place): lake.digest(place[0], spec.name, place[1]) for place in sorted(states)},
        "run": asdict(start.run),
        "compared_with": rivals.days,
        **({"ranked": {of: lake.digest(CLEANED_FEATURES, spec.name, of) for of in features}} if features else {}),
    }
    checkpoints = Checkpoints(lake, spec.name, online_checkpoints(model), day, identity, recipe.checkpoints)
    known_to = {ONLINE: day_bounds(day, spec.zone)[0], **rivals.known_to}
    label_wait = round(recipe.online.label_wait * MICROSECONDS_PER_MINUTE)
    record = DayRecord(known_to, ranks_only=getattr(recipe.model, "loss", None) == "softmax", label_wait=label_wait)
    state, synced = _resume(checkpoints, recipe, schema, record) or (begin_state(lake, spec, start, recipe), None)
    observer, learned = options.observer, None
    now = replace(start.run, version=synced.version) if synced else start.run
    serving_of = ServingOfDay(lake, spec, model, day, observer.folder if observer else None)
    serving = serving_of.open(state, now, below(checkpoints.beside, SERVING) if synced else None)
    daily = rivals.load()
    if features:
        systems = {ONLINE: lambda: serving.predictor, **current_of(daily)}
        record.ranking = SliceRanking(spec, day, lake, systems, features)
        record.ranking.restore(below(checkpoints.beside, RANKING), [row["rows"] for row in record.slices])
    resumed_at, rows_before, began = len(record.slices), record.rows, time.perf_counter()

    if observer:
        observer.begin(state, now, record, serving)

    def before_training(part: Slice, stats: SyncStats) -> None:
        def save_if_due() -> None:
            checkpoints.after_step(state, _Position(record, stats), lambda: beside_state(record, serving))

        if observer:
            observer.synced(stats, serving, learned)
            while (seconds := observer.wait()) > 0:
                save_if_due()  # it also delivers signals
                time.sleep(min(seconds, _NAP))
        save_if_due()

    with (
        progress_of(f"{spec.name} {model} {day} online", reader.rows, record.rows, options.progress) as show,
        checkpoints.on_signals(),
        online_rates(state, recipe.online),
    ):
        for result in online_slices(
            state,
            _slices(reader, recipe, resumed_at - len(record.waiting)),
            serving,
            beside=predictions_of(daily),
            rank=record.ranking.rank if record.ranking else None,
            synced=synced,
            label_wait=label_wait,
            predicted=record.waiting,
            before_training=before_training,
            on_step=show,
        ):
            record.add(result)
            learned = result.learned
            if observer:
                observer.trained(result)
    seconds = time.perf_counter() - began
    state.end_pass()
    keys = {
        "dataset": spec.name,
        "model": model,
        "day": day,
        "trained_from": identity,
        "resumed_at": resumed_at,
        "samples_per_second": (record.rows - rows_before) / seconds,
        **lineage,
    }
    run = replace(start.run, version=start.run.version + record.versions)
    manifest = write_online_day(staging, state, record, serving, start=start, run=run, keys=keys)

    def finish() -> None:
        checkpoints.discard()
        serving_of.close(serving)
        if observer:
            observer.end(state, learned)

    return OnlineDay(lake.partition(online_updates(model), spec.name, day), record, resumed_at, manifest), finish


class _Position:
    """The position of a checkpoint: before the training of a slice, after its synchronisation."""

    def __init__(self, record: DayRecord, synced: SyncStats | None = None) -> None:
        self._record, self.synced = record, synced

    def state_dict(self) -> dict[str, Any]:
        return {**self._record.state_dict(), "synced": asdict(self.synced) if self.synced else None}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._record.load_state_dict(state)
        self.synced = SyncStats(**state["synced"])


def beside_state(record: DayRecord, serving: DayServing) -> Tensors:
    """Return what a checkpoint stores beside the state."""
    parts = [(RECORD, record.tensors()), (SERVING, serving.tensors())]
    parts += [(RANKING, record.ranking.tensors())] if record.ranking else []
    return {f"{prefix}{name}": tensor for prefix, tensors in parts for name, tensor in tensors.items()}


def _resume(
    checkpoints: Checkpoints, recipe: Recipe, schema: FeatureSchema, record: DayRecord
) -> tuple[TrainState, SyncStats] | None:
    """Load the newest checkpoint, and continue the record; None without a checkpoint."""
    position = _Position(record)
    state = checkpoints.resume(recipe, schema, position)
    if state is None or position.synced is None:
        return None
    record.load_tensors(below(checkpoints.beside, RECORD))
    return state, position.synced


def _slices(reader: BlockReader, recipe: Recipe, first: int) -> Iterator[DaySlice]:
    if recipe.online.minutes is not None:
        return reader.slices(minutes=recipe.online.minutes, first=first)
    return reader.slices(count=recipe.online.slices, first=first)
