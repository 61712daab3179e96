"""Mid-day checkpoints: a training state and a position in the data, from which a killed run of a day resumes.

They are partitions of a stage of the lake, such as `checkpoints/<model>`, a few per day, called `<day>.0` and so on; each new
one replaces the oldest. A checkpoint is used only by a pass of the same identity (recipe, data, parent), on any number of
ranks. The state is copied between two steps and written while training continues. This module decides when to save, what to
keep and when to stop; `ml.artifacts.snapshot` writes the files.
"""

from __future__ import annotations

import copy
import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from types import FrameType
from typing import Any, Protocol

from upath import UPath

from ml.artifacts.snapshot import CheckpointShard, Tensors, below, load_tensors, save_shard
from ml.distributed.process_group import Ranks
from ml.lake import Lake
from ml.recipes.recipe import CheckpointRecipe, Recipe
from ml.schema import FeatureSchema
from ml.training.state import TrainState
from ml.training.state_dict import load_snapshot, restore, shard_of_state, state_from_metadata

STEPS_BETWEEN_CHECKS = 8  # in a check, ranks exchange a message to agree on whether to save
_BESIDE = "beside/"
_log = logging.getLogger(__name__)


class Position(Protocol):
    """A position in the data of a day, such as a `BlockReader`."""

    def state_dict(self) -> dict[str, Any]:
        """Return the position as values that JSON supports. `batches` increases with it."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Move to a position that `state_dict` returned."""
        ...


@dataclass
class Checkpoints:
    """Checkpoints of one day of one model. All ranks must make the same calls.

    Attributes:
        lake: Where checkpoints are stored.
        dataset: Name of the dataset.
        stage: Where checkpoints are stored, such as `checkpoints/<model>`.
        day: `YYYY-MM-DD`.
        identity: Plain values that determine what the pass computes.
        kept: How often to save, and what to keep.
        ranks: The processes that train together; None for one.
        beside: Tensors that were saved beside the state that `resume` has loaded.

    Example:
        >>> lake = Lake.at("/tmp/example-lake")
        >>> Checkpoints(lake, "criteo", "checkpoints/dlrm", "2014-01-02", {}, CheckpointRecipe()).found()
        []
    """

    lake: Lake
    dataset: str
    stage: str
    day: str
    identity: dict[str, Any]
    kept: CheckpointRecipe
    ranks: Ranks | None = None
    beside: Tensors = field(default_factory=dict)
    _next: int = 0
    _writer: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "checkpoint"))
    _writing: Future[None] | None = None
    _saved_at: float = field(default_factory=time.monotonic)
    _signal: int | None = None
    _before: dict[int, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._writer_ranks = self.ranks.new_group() if self.ranks else None

    def found(self) -> list[tuple[int, dict[str, Any]]]:
        """List number and manifest of each checkpoint of this day and identity, newest first."""
        found = {}
        for name, saved in self._manifests():
            if name.startswith(f"{self.day}.") and saved.get("identity") == self.identity:
                found[int(name.rpartition(".")[2])] = saved
        return sorted(found.items(), key=lambda item: item[1]["reader"]["batches"], reverse=True)

    def resume(self, recipe: Recipe, schema: FeatureSchema, position: Position) -> TrainState | None:
        """Load the newest checkpoint of this identity, and move to its position.

        If a checkpoint cannot be read, the one before it is loaded.

        Args:
            recipe: How the day is trained.
            schema: The features that the model reads.
            position: Usually the day's reader, which is moved to the checkpoint's position.

        Returns:
            The state; None if there is no checkpoint of this identity.
        """
        for number, saved in self.found():
            shard = self._read(number)
            if self.ranks is not None and self.ranks.all_reduce_sum([shard is not None])[0] < self.ranks.size:
                continue
            if shard is not None:
                self._next = number + 1
                position.load_state_dict(saved["reader"])
                self.beside = below(shard.optimizer or {}, _BESIDE)
                folder = self._folder(number)
                state = state_from_metadata(shard.metadata, folder, recipe, schema, self.ranks)
                restore(state, shard, folder)
                return state
        return None

    def save(self, state: TrainState, position: Position, beside: Tensors | None = None) -> None:
        """Copy the state, and write the copy in the background once the previous checkpoint is written.

        Args:
            state: The state between two steps.
            position: The position that training has reached.
            beside: Further tensors to store, which must not change; stored by the first rank.
        """
        self.wait()
        reached = copy.deepcopy(position.state_dict())  # training changes it while it is written
        manifest = {"identity": self.identity, "reader": reached, "saved_at": time.time()}
        name = f"{self.day}.{self._next % self.kept.keep}"
        shard = shard_of_state(state, self.ranks, copy=True)
        if beside and (self.ranks is None or self.ranks.rank == 0):
            shard = replace(shard, optimizer={f"{_BESIDE}{key}": t for key, t in beside.items()} | (shard.optimizer or {}))
        self._writing = self._writer.submit(self._write, name, shard, manifest)
        self._next, self._saved_at = self._next + 1, time.monotonic()

    def wait(self) -> None:
        """Wait until the checkpoint in progress is written. Raises its error if writing failed."""
        if self._writing is not None:
            self._writing.result()
            self._writing = None

    def after_step(self, state: TrainState, position: Position, beside: Callable[[], Tensors] | None = None) -> None:
        """Save if a checkpoint is due or a signal has arrived; then deliver the signal. `beside`: as for `save`."""
        if self._writing is not None and self._writing.done():
            self.wait()
        asked, due = self._signal is not None, time.monotonic() - self._saved_at > 60 * self.kept.minutes
        if self.ranks is not None:
            if state.steps % STEPS_BETWEEN_CHECKS:
                return
            of_all = self.ranks.all_reduce_sum([asked, due])
            asked, due = of_all[0] > 0, of_all[1] > 0
        if asked or due:
            self.save(state, position, beside() if beside else None)
        if asked:
            self.wait()
            self._deliver()

    def merged(self, state: TrainState, position: Position) -> TrainState | None:
        """Collect the whole state through a checkpoint. Returns it on the first rank, and None on the others."""
        self.save(state, position)
        self.wait()
        if self.ranks is None or self.ranks.rank:
            return None
        newest = self._folder((self._next - 1) % self.kept.keep)
        return load_snapshot(newest, recipe=state.recipe, schema=state.schema)

    def discard(self) -> None:
        """Delete the checkpoints of the day, once the day itself is written."""
        self.wait()
        self._writer.shutdown()
        if self.ranks is None or self.ranks.rank == 0:
            self._clear(lambda name, _: name.startswith(f"{self.day}."))

    @contextmanager
    def on_signals(self) -> Iterator[None]:
        """Delay SIGINT and SIGTERM to the end of a step, within the block.

        Python allows signal handlers in the main thread only. In other threads, signals act immediately, and up to `minutes`
        of training are lost.
        """
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        except BaseException:
            with suppress(Exception):  # it may have the same cause
                self.wait()
            raise
        finally:
            self._deliver()

    def _write(self, name: str, shard: CheckpointShard, manifest: dict[str, Any]) -> None:
        ranks = self._writer_ranks
        if ranks is None:
            with self.lake.write(self.stage, self.dataset, name) as folder:
                save_shard(shard, folder)
                self.lake.write_manifest(folder, manifest)
        elif ranks.rank == 0:
            with self.lake.write(self.stage, self.dataset, name) as folder:
                ranks.barrier()  # the folder exists
                save_shard(shard, folder, ranks)
                ranks.barrier()  # all have written
                self.lake.write_manifest(folder, manifest)
        else:
            ranks.barrier()
            save_shard(shard, self.lake.staging_path(self.stage, self.dataset, name), ranks)
            ranks.barrier()
        if ranks is None or ranks.rank == 0:
            self._clear(lambda _, age: age > self.kept.hours)

    def _clear(self, selects: Callable[[str, float], bool]) -> None:
        """Delete the checkpoints of any day of this model that `selects` chooses by name and age in hours."""
        for name, saved in self._manifests():
            if selects(name, (time.time() - saved.get("saved_at", 0.0)) / 3600):
                self.lake.discard(self.stage, self.dataset, name)

    def _manifests(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield name and manifest of all checkpoints of this model. A manifest that cannot be read is empty."""
        for name in self.lake.days(self.stage, self.dataset):
            saved: dict[str, Any] = {}
            with suppress(OSError, ValueError):
                saved = self.lake.manifest(self.stage, self.dataset, name)
            yield name, saved

    def _read(self, number: int) -> CheckpointShard | None:
        try:
            return load_tensors(self._folder(number), self.ranks)
        except (OSError, ValueError) as error:  # DamagedSnapshot and SnapshotMismatch are ValueErrors
            folder = self.lake.partition(self.stage, self.dataset, f"{self.day}.{number}")
            _log.warning("checkpoint %s cannot be used: %s", folder, error)
            return None

    def _folder(self, number: int) -> UPath:
        return self.lake.require(self.stage, self.dataset, f"{self.day}.{number}")

    def _note(self, signum: int, frame: FrameType | None) -> None:
        self._signal = signum

    def _deliver(self) -> None:
        """Restore the previous signal handlers, and deliver the delayed signal to them."""
        while self._before:
            signal.signal(*self._before.popitem())
        signum, self._signal = self._signal, None
        if signum is not None:
            signal.raise_signal(signum)
