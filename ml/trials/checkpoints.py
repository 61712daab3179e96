"""Checkpoints of a trial: its metrics at fixed points of its training, at which it can be stopped early.

The quality at a checkpoint is measured on the first rows of the last scored day, the only one that a trial never trains on.
Points are shares of a day's pass, so trials with other batch sizes are compared at the same number of rows.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import cached_property
from itertools import islice
from typing import Protocol

from ml.artifacts.weights import bytes_of
from ml.catalog.spec import DatasetSpec
from ml.datasets.batch import Batch
from ml.datasets.reader import BlockReader
from ml.datasets.splits import SPLITS
from ml.lake import Lake
from ml.training.report import Step
from ml.training.score import EVALUATION_BATCH, score
from ml.training.state import TrainState

A_DAY = 4
"""Checkpoints in the pass over a day."""
BATCHES = 8  # of the scored day, at most


class OnCheckpoint(Protocol):
    """Receives the number of a checkpoint, from 1, and its metrics. Returns why the trial should stop, or an empty text."""

    def __call__(self, number: int, metrics: Mapping[str, float]) -> str: ...


class StoppedEarly(Exception):
    """A trial was stopped at a checkpoint; the message says why."""


class Checkpoints:
    """Evaluates a trial after each quarter of a day, except at the end of its training.

    Args:
        spec: The dataset.
        lake: The lake.
        day: The day whose first rows are scored.
        passes: Number of days that the trial trains on.
        on_checkpoint: Receives the metrics.
    """

    def __init__(self, spec: DatasetSpec, lake: Lake, day: str, passes: int, on_checkpoint: OnCheckpoint) -> None:
        self._spec, self._lake, self._day = spec, lake, day
        self._passes, self._begun, self._on_checkpoint = passes, 0, on_checkpoint
        self.training_time = 0.0
        """CPU-seconds of the training loops so far."""
        self.overhead = 0.0
        """CPU-seconds of the evaluations, which do not count as training time."""
        self.rows = self.model_bytes = 0

    @cached_property
    def _held_out(self) -> list[Batch]:
        reader = BlockReader(self._lake, self._spec, [self._day], splits=SPLITS, batch_size=EVALUATION_BATCH, order="time")
        return list(islice(reader, BATCHES))

    def begin(self, state: TrainState, total_steps: int) -> Callable[[Step], None]:
        """Return what to call after each step of a pass of `total_steps` steps."""
        number, self._begun = self._begun, self._begun + 1
        earlier, before, started = self.training_time, self.overhead, time.process_time()

        def after_step(step: Step) -> None:
            self.training_time = earlier + time.process_time() - started - (self.overhead - before)
            self.rows += step.rows
            points = A_DAY * (step.index + 1) // total_steps
            is_last = points == A_DAY and self._begun == self._passes
            if points > A_DAY * step.index // total_steps and not is_last:
                self._report(number * A_DAY + points, state)

        return after_step

    def _report(self, number: int, state: TrainState) -> None:
        began = time.process_time()
        scores = score(state, self._held_out)
        metrics = {name: float(value) for name in ("auc", "log_loss") if (value := scores[name]) is not None}
        self.model_bytes = bytes_of(state.model)
        metrics |= {"training_time": self.training_time, "model_bytes": float(self.model_bytes)}
        self.overhead += time.process_time() - began
        if why := self._on_checkpoint(number, metrics):
            raise StoppedEarly(f"{why} at checkpoint {number} of {self._passes * A_DAY - 1}")
