"""Chooses the serving model of a day of online training: a copy in memory, or a receiver of published packages."""

from __future__ import annotations

from dataclasses import dataclass

from upath import UPath

from ml.artifacts.bundle import vocabulary_states, write_inputs
from ml.artifacts.snapshot import Tensors, below
from ml.catalog.spec import DatasetSpec
from ml.lake import Lake
from ml.online.probe_set import probe_of
from ml.online.published import PUBLISHER, PublishedServing, published_version
from ml.online.serving import ServingCopy
from ml.online.start import Run
from ml.stages import online_packages
from ml.sync.folder import SyncFolder
from ml.sync.publisher import Publisher
from ml.training.state import TrainState

DayServing = ServingCopy | PublishedServing


@dataclass(frozen=True)
class ServingOfDay:
    """Opens the serving model of one day.

    Without a byte budget and a probe, every server has the rows of the trainer, and a copy in memory predicts the same bits.

    Attributes:
        lake: The lake.
        spec: The dataset.
        model: Name of the model.
        day: `YYYY-MM-DD`.
        folder: Where servers find packages; None if there are none. A folder of the lake is then used until the day is over.
    """

    lake: Lake
    spec: DatasetSpec
    model: str
    day: str
    folder: SyncFolder | None = None

    def open(self, state: TrainState, run: Run, kept: Tensors | None) -> DayServing:
        """Open the serving model.

        Args:
            state: The state under training.
            run: The run, at the version that is served.
            kept: What the serving model's `tensors` returned, to continue from a checkpoint of the state.

        Raises:
            RunConflict: The folder has other packages of the same versions.
        """
        sync = state.recipe.online.sync
        if sync.byte_budget is None and sync.probe is None:
            return ServingCopy(state, sync, run.version, kept)
        if kept is None and self.folder is None:
            self._discard()
        own = self.publisher(
            state,
            run.run_id,
            run.version if kept is None else published_version(kept),
            None if kept is None else below(kept, PUBLISHER),
        )
        if kept is None:
            own.begin()
        probe = probe_of(self.lake, self.spec, state.recipe, before=self.day)
        return PublishedServing(own, sync, probe, kept)

    def publisher(self, state: TrainState, run_id: str, version: int, tensors: Tensors | None) -> Publisher:
        """Build the publisher of the day."""
        return Publisher(
            self.folder or SyncFolder.at(str(self._own)),
            state,
            self._inputs,
            dataset=self.spec.name,
            model=self.model,
            run_id=run_id,
            recipe=state.recipe.online.sync,
            version=version,
            tensors=tensors,
        )

    def close(self, serving: DayServing) -> None:
        """Delete what only the day needs."""
        if isinstance(serving, PublishedServing):
            serving.end()
            if self.folder is None:
                self._discard()

    @property
    def _own(self) -> UPath:
        return self.lake.partition(online_packages(self.model), self.spec.name, self.day)

    def _discard(self) -> None:
        if self._own.exists():
            self._own.fs.rm(self._own.path, recursive=True)

    def _inputs(self, staging: UPath) -> dict[str, str]:
        before = self.spec.previous_day(self.day) or self.day
        return write_inputs(staging, self.spec, vocabulary_states(self.lake, self.spec, before, self.model))
