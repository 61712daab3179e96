"""Mid-day checkpoints: a training state beside the place in its data, so that a killed day goes on where it was.

They lie in the lake's `checkpoints`, beside the visible partitions and written as whole as those, and are used only by
a pass of the same identity (recipe, data, parent). When to save and when to stop is decided here too; what a state
looks like on disk is `ml.training.snapshot`.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

from ml.datasets.reader import BlockReader
from ml.features.schema import FeatureSchema
from ml.lake import Lake
from ml.recipes.recipe import Recipe
from ml.training.snapshot import load_snapshot, save_snapshot
from ml.training.state import TrainState


@dataclass
class Checkpoint:
    """Of one day of one model. identity: plain values that fix what the pass computes; minutes: between two savings."""

    lake: Lake
    dataset: str
    model: str
    day: str
    identity: dict[str, Any]
    minutes: float
    _saved_at: float = field(default_factory=time.monotonic)
    _signal: int | None = None
    _before: dict[int, Any] = field(default_factory=dict)

    @property
    def stage(self) -> str:
        return f"checkpoints/{self.model}"

    def resume(self, recipe: Recipe, schema: FeatureSchema, reader: BlockReader) -> TrainState | None:
        """The saved state, with `reader` set to its place; None where there is none, or one of another identity."""
        if not self.lake.has(self.stage, self.dataset, self.day):
            return None
        saved = self.lake.manifest(self.stage, self.dataset, self.day)
        if saved["identity"] != self.identity:
            return None
        reader.load_state_dict(saved["reader"])
        return load_snapshot(self.lake.need(self.stage, self.dataset, self.day), recipe=recipe, schema=schema)

    def save(self, state: TrainState, reader: BlockReader) -> None:
        with self.lake.write(self.stage, self.dataset, self.day) as folder:
            save_snapshot(state, folder)
            self.lake.describe(folder, {"identity": self.identity, "reader": reader.state_dict()})
        self._saved_at = time.monotonic()

    def after_step(self, state: TrainState, reader: BlockReader) -> None:
        """Save where it is time to, or where a signal asked to stop; then let the signal do what it was sent for."""
        if self._signal is not None:
            self.save(state, reader)
            self._deliver()
        elif time.monotonic() - self._saved_at > 60 * self.minutes:
            self.save(state, reader)

    def discard(self) -> None:
        self.lake.discard(self.stage, self.dataset, self.day)

    @contextmanager
    def on_signals(self) -> Iterator[None]:
        """While the block lasts, SIGINT and SIGTERM wait for the end of a step. Python allows this in the main thread only;
        elsewhere signals do what they did, and at most `minutes` of work are lost."""
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            self._deliver()

    def _note(self, signum: int, frame: FrameType | None) -> None:
        self._signal = signum

    def _deliver(self) -> None:
        """Put back the handlers that were there, and hand them the signal that waits, if one does."""
        while self._before:
            signal.signal(*self._before.popitem())
        signum, self._signal = self._signal, None
        if signum is not None:
            signal.raise_signal(signum)
