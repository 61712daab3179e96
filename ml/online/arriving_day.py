"""A day of online training of arriving rows: its slices, synchronisations and checkpoints, and its partition once it is over.

`ml.online.arriving` decides which day is trained, and passes it the parts of the stream.
"""

from __future__ import annotations

import itertools
import json
import logging
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace

import pyarrow as pa
from upath import UPath

from ml.artifacts.bundle import vocabulary_file, write_inputs
from ml.artifacts.snapshot import Tensors, below
from ml.catalog.spec import DatasetSpec
from ml.days import day_bounds
from ml.embeddings.delta import Gap
from ml.lake import Lake
from ml.online.arriving_inputs import DayInputs
from ml.online.arriving_position import STREAM, ArrivingPosition, position_file, rows_file, taken_folder
from ml.online.day import RECORD, SERVING, beside_state
from ml.online.earlier_events import delete_unneeded_rows, events_before, known_before
from ml.online.examples import DayExamples, read_side_tables, read_vocabularies
from ml.online.feeder import remove_incomplete, write_arriving, write_whole
from ml.online.landing import CannotLand, land_day
from ml.online.loop import ONLINE, SliceResult, online_slices
from ml.online.partition import write_online_day
from ml.online.ranking import unranked
from ml.online.rates import online_rates
from ml.online.record import DayRecord
from ml.online.rivals import Rivals, predictions_of
from ml.online.serving import ServingCopy, SyncStats
from ml.online.start import begin_state
from ml.online.stream import Arrived, LostFile, Position, StreamFolder
from ml.parquet import read_parquet
from ml.recipes.recipe import Recipe
from ml.recipes.stored import recipe_in_use
from ml.schema import FeatureSchema
from ml.stages import CLEANED_FEATURES, online_checkpoints
from ml.sync.folder import RunConflict, SyncFolder
from ml.sync.publisher import Publisher
from ml.training.checkpoint import Checkpoints
from ml.training.state import TrainState

_PUBLISHER = "publisher/"
_log = logging.getLogger("evergreen")


@dataclass(frozen=True)
class ArrivingOptions:
    """Options of online training of arriving rows.

    Attributes:
        recipe: How the model is trained; by default the day's recipe in the lake, or else the declared one.
        checkpoint_slices: Slices between two checkpoints, besides those at the interval of the recipe's `checkpoints`.
        on_message: Receives a message when there is nothing to read, and when a day is over.
    """

    recipe: Recipe | None = None
    checkpoint_slices: int = 50
    on_message: Callable[[str], None] = _log.info


@dataclass(frozen=True)
class TrainedSlice:
    """A slice that was trained on.

    Attributes:
        day: The day of its rows.
        result: Predictions and loss.
        published: The synchronisation after the slice.
        published_at: Time at which its package was complete, in seconds since 1970 UTC.
        run_id: The run in which it was published.
        record: The slices of the day so far.
        quarantined: Rows of the stream that were quarantined on this day, by reason.
        seconds: Wall-clock seconds by activity: `train` makes the examples, predicts them and trains on them; `publish` creates
            and writes the package.
    """

    day: str
    result: SliceResult
    published: SyncStats
    published_at: float
    run_id: str
    record: DayRecord
    quarantined: Counter[str]
    seconds: Mapping[str, float] = field(default_factory=dict, compare=False)


class ArrivingDay:
    """A day of a stream that is being trained, from its checkpoint or else from the state of the day before.

    The caller holds the day's partition in `online_updates/<model>/<dataset>`, so that no other process trains the same day.

    Args:
        spec: The dataset.
        day: The day, `YYYY-MM-DD`.
        lake: Where states and checkpoints are stored.
        stream: The arriving rows. The rows that the day has taken are kept beside them until it is over.
        folder: Where the model is published.
        logs: The landing folder, which holds the side tables and receives the rows of the day.
        model: One of the dataset's models.
        options: Recipe, checkpoints and messages.

    Attributes:
        at: What the day has taken from the stream.
        resumed: Whether it continues from a checkpoint.

    Raises:
        MissingPartition: The state to start from is missing.
        LostFile: The rows of a slice before the checkpoint are missing.
    """

    def __init__(
        self,
        spec: DatasetSpec,
        day: str,
        lake: Lake,
        stream: StreamFolder,
        folder: SyncFolder,
        logs: str | UPath,
        model: str,
        options: ArrivingOptions,
    ) -> None:
        self._spec, self._day, self._lake, self._folder, self._model = spec, day, lake, folder, model
        self._options, self._logs, self._taken = options, logs, taken_folder(stream.root, model) / day
        self._recipe = recipe = options.recipe or recipe_in_use(lake, spec, model, day)
        schema = FeatureSchema.of(spec)
        settings = {
            "recipe": recipe.fingerprint,
            "online": recipe.online.fingerprint,
            "schema": schema.fingerprint,
            "data": {STREAM: str(stream.root), "part_rows": stream.part_rows},
        }
        self._inputs = inputs = DayInputs.choose(lake, spec, model, day, recipe, self._taken.parent, settings)
        self._start = start = inputs.start
        rivals = Rivals(lake, spec, model, inputs.compared_with)
        self._identity = settings | inputs.to_plain()
        self._checkpoints = Checkpoints(lake, spec.name, online_checkpoints(model), day, self._identity, recipe.checkpoints)
        self._beside = predictions_of(rivals.load())
        known_to = {ONLINE: day_bounds(day, spec.zone)[0], **rivals.known_to}
        record = DayRecord(known_to, ranks_only=getattr(recipe.model, "loss", None) == "softmax")
        self.at = ArrivingPosition(record, run_id=start.run.run_id)
        state = self._checkpoints.resume(recipe, schema, self.at)
        self.resumed = state is not None
        self._examples = DayExamples(
            spec,
            day,
            read_vocabularies(spec, inputs.vocabularies_of, lake),
            read_side_tables(spec, logs),
            events_before(spec, inputs.earlier, lake, self._taken.parent),
            known_before(spec, day, inputs.earlier, lake, self._taken.parent),
        )
        if state is not None:
            record.load_tensors(below(self._checkpoints.beside, RECORD))
            kept = below(self._checkpoints.beside, SERVING)
            assert self.at.synced is not None
            self._serving = ServingCopy(state, recipe.online.sync, self.at.synced.version, kept)
            self._publisher = self._new_publisher(state, self.at.synced.version, begins=False)
            for number in range(self.at.taken):
                self._examples.skip(self._rows_of(number))
            if recipe.online.restart == "snapshot":
                self._lose_slices()
            else:
                self._delete_slices(self.at.taken)
        else:
            self._delete_slices(0)
            delete_unneeded_rows(spec, day, inputs.earlier, self._taken.parent)
            state = begin_state(lake, spec, start, recipe)
            self._serving = ServingCopy(state, recipe.online.sync, start.run.version)
            self._publisher = self._new_publisher(state, start.run.version, begins=True)
            self.at.synced = self._serving.sync(state, 0, None)
        self._state = state

    def train(self, parts: Iterator[Arrived], wait: Callable[[float], bool]) -> Generator[TrainedSlice, None, Arrived | None]:
        """Train on the parts of the day. Returns the first part of the next day, or None to stop."""
        state, at = self._state, self.at
        self._taken.mkdir(parents=True, exist_ok=True)
        with online_rates(state, self._recipe.online):
            for part in parts:
                if part.day not in (None, self._day):
                    return part
                at.quarantined.update(part.quarantined)
                if not len(part.rows):
                    at.position = part.position
                    if wait(0):
                        return None
                    continue
                number, began = at.taken, time.perf_counter()
                write_arriving(part.rows, self._taken / rows_file(number))
                write_whole(json.dumps(asdict(part.position)).encode(), self._taken / position_file(number))
                own = self._examples.slice(part.rows, number, self._recipe.online.batch_size or self._recipe.batch_size)
                for result in online_slices(state, [own], self._serving, beside=self._beside, synced=at.synced):
                    at.record.add(result)
                    trained = time.perf_counter()
                    at.synced = self._sync(number + 1, result.events)
                    published_at, published = time.time(), time.perf_counter()
                    seconds = {"train": trained - began, "publish": published - trained}
                    at.position = part.position
                    if (number + 1) % self._options.checkpoint_slices == 0:
                        self._checkpoints.save(state, at, self._tensors())
                    else:
                        self._checkpoints.after_step(state, at, self._tensors)
                    yield TrainedSlice(
                        self._day, result, at.synced, published_at, at.run_id, at.record, at.quarantined, seconds
                    )
                if wait(0):
                    return None
        return None

    def save(self) -> None:
        """Write a checkpoint, and wait until it is written."""
        self._checkpoints.save(self._state, self.at, self._tensors())
        self._checkpoints.wait()

    def seal(self, staging: UPath) -> None:
        """Write the partition of the day, which is over."""
        state, record, start = self._state, self.at.record, self._start
        event_to = record.slices[-1]["event_to"] if record.slices else None
        state.end_pass()
        # What the end of the pass has deleted, and every row that was held back, because the next day begins without them.
        self._publisher.publish(None, everything=True)
        self._publisher.snapshot(event_to)
        keys = {
            "dataset": self._spec.name,
            "model": self._model,
            "day": self._day,
            "trained_from": self._identity,
            "resumed_at": 0,
            "samples_per_second": record.rows / max(sum(of["train"] for of in record.seconds), 1e-9),
            STREAM: asdict(self.at.position),
            "lost_slices": self.at.lost,
            "scored_after_seconds": _scored_after(self._spec),
            "unranked": unranked(self._spec, self._recipe),
            "quarantined": dict(self.at.quarantined),
            "lineage": self._inputs.states,
        }
        run = replace(start.run, run_id=self.at.run_id, version=self._publisher.version)
        write_online_day(staging, state, record, self._serving, start=start, run=run, keys=keys)

    def land(self) -> str:
        """Write the rows of the day into the landing folder if the log allows it, and return what was done."""
        rows = [self._taken / rows_file(number) for number in range(self.at.taken)]
        scratch = self._taken.parent / "landing"
        try:
            landed = land_day(self._spec.examples_log, self._day, rows, UPath(self._logs), scratch)
        except CannotLand as reason:
            return f"{self._day} is over; its rows were not written to the landing folder, because {reason}; deliver them"
        return f"{self._day} is over; its rows are in {landed}"

    def discard(self) -> None:
        """Delete what only an unfinished day needs. The next day reads the rows, if its features depend on earlier events."""
        self._checkpoints.discard()
        if self._taken.exists() and not self._spec.reads_earlier_events:
            self._taken.fs.rm(self._taken.path, recursive=True)

    def _delete_slices(self, since: int) -> None:
        """Delete slices from a number on: an earlier attempt at the day took them, and this one takes them again."""
        if not self._taken.exists():
            return
        remove_incomplete(self._taken)
        for file in list(self._taken.iterdir()):
            if int(file.name.partition(".")[0]) >= since:
                file.unlink()

    def _rows_of(self, number: int) -> pa.Table:
        """Read the rows of a slice that was taken."""
        path = self._taken / rows_file(number)
        if not path.exists():
            saved = self._lake.partition(online_checkpoints(self._model), self._spec.name, f"{self._day}.*")
            raise LostFile(
                f"{path}: the file of slice {number}, which a checkpoint continues, is missing; copy it back, or delete "
                f"{saved}, so that the day begins again with the files of the stream"
            )
        return read_parquet(path)

    def _lose_slices(self) -> None:
        """Continue after the slices that were taken since the checkpoint, without training on them."""
        while (self._taken / position_file(self.at.taken)).exists():
            number = self.at.taken
            self._examples.skip(self._rows_of(number))
            self.at.position = Position(**json.loads((self._taken / position_file(number)).read_text()))
            self.at.lost += 1
        if self.at.lost:
            _log.warning(
                "%s/%s of %s: %d slices are lost (restart: snapshot)", self._spec.name, self._model, self._day, self.at.lost
            )

    def _sync(self, number: int, events: tuple[int, int]) -> SyncStats:
        stats = self._serving.sync(self._state, number, events)
        try:
            self._publisher.publish(events, stats.has_dense, self._serving.delta)
        except (RunConflict, Gap) as error:
            _log.warning("%s/%s begins a new run: %s", self._spec.name, self._model, error)
            self._begin_run(stats.version)
            return stats
        if stats.kind == "snapshot":
            self._publisher.snapshot(events[1])
        return stats

    def _new_publisher(self, state: TrainState, version: int, begins: bool) -> Publisher:
        tensors = None if begins else below(self._checkpoints.beside, _PUBLISHER)
        publisher = self._publisher_of(state, version, tensors)
        if begins:
            try:
                publisher.begin()
            except RunConflict:
                self._publisher, self._state = publisher, state
                self._begin_run(version)
                publisher = self._publisher
        return publisher

    def _publisher_of(self, state: TrainState, version: int, tensors: Tensors | None) -> Publisher:
        words = [column.name for column in self._spec.sparse if column.vocabulary]
        words_of = self._inputs.vocabularies_of
        folder = self._lake.partition(CLEANED_FEATURES, self._spec.name, words_of) if words_of else None
        states = {name: folder / vocabulary_file(name) for name in words} if folder else {}

        def inputs(target: UPath) -> dict[str, str]:
            return write_inputs(target, self._spec, states)

        return Publisher(
            self._folder,
            state,
            inputs,
            dataset=self._spec.name,
            model=self._model,
            run_id=self.at.run_id,
            recipe=self._recipe.online.sync,
            version=version,
            tensors=tensors,
        )

    def _begin_run(self, version: int) -> None:
        """Publish under a run id that was not used before. A run begins with a snapshot."""
        used, base = set(self._folder.runs()), self._start.run.run_id.partition("-")[0]
        self.at.run_id = next(name for n in itertools.count(2) if (name := f"{base}-{n}") not in used)
        self._publisher = self._publisher_of(self._state, version, self._publisher.tensors())
        event_to = self.at.record.slices[-1]["event_to"] if self.at.record.slices else None
        self._publisher.snapshot(event_to)

    def _tensors(self) -> Tensors:
        held = {f"{_PUBLISHER}{name}": tensor for name, tensor in self._publisher.tensors().items()}
        return beside_state(self.at.record, self._serving) | held


def _scored_after(spec: DatasetSpec) -> float:
    """Return the time from an event until its example arrives and is predicted, by a model that has learned until then."""
    return (spec.actions.wait + spec.actions.lateness) / 1e6 if spec.actions else 0.0
