"""A serving model that receives packages from a folder, as a server does, with sums of what that costs."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from ml.artifacts.weights import dense_of
from ml.online.published import PublishedServing
from ml.online.serving import SyncStats
from ml.recipes.online import SyncRecipe
from ml.sync.folder import SyncFolder
from ml.sync.publisher import Inputs, Publisher
from ml.training.state import TrainState

_RUN = "study"


class MeasuredServing(PublishedServing):
    """Publishes to an empty folder, applies what was published, and adds up bytes, rows and seconds.

    Args:
        folder: An empty folder for packages.
        state: The state under training, which the first snapshot contains.
        inputs: See `Publisher`.
        sync: What is published.
        dataset: Name of the dataset.

    Attributes:
        snapshot_bytes: Bytes of the first snapshot.
        totals: Sums over all deltas, by the names of the attributes of `Run`.
        seconds: As in `Run`.
        pending: Rows that the byte budget has held back after the last delta.
    """

    def __init__(self, folder: Path, state: TrainState, inputs: Inputs, sync: SyncRecipe, dataset: str) -> None:
        place = SyncFolder.at(folder)
        publisher = Publisher(place, state, inputs, dataset=dataset, model=_RUN, run_id=_RUN, recipe=sync)
        self.snapshot_bytes = publisher.snapshot().manifest.nbytes
        super().__init__(publisher, sync, probe=None)
        self._dense_bytes = sum(tensor.nbytes for tensor in dense_of(state.model).values())
        self.totals, self.seconds, self.pending = Counter[str](), Counter[str](), 0

    def sync(self, state: TrainState, number: int, learned: tuple[int, int] | None) -> SyncStats:
        """Publish a delta and apply it; see `PublishedServing.sync`.

        Raises:
            RuntimeError: The receiver has refused the delta.
        """
        before = _seconds_to_apply(self)
        done = super().sync(state, number, learned)
        if self.published is None:
            return done
        manifest = self.published.manifest
        if done.version != manifest.version:
            raise RuntimeError(f"{manifest.name} was not applied: {self.status.last_refusal}")
        dense_bytes = self._dense_bytes if done.has_dense else 0
        self.totals.update(syncs=1, rows=manifest.rows, nbytes=manifest.nbytes, dense_bytes=dense_bytes)
        self.seconds.update({**self.published.seconds, "apply": _seconds_to_apply(self) - before})
        self.pending = manifest.pending
        return done


def _seconds_to_apply(serving: PublishedServing) -> float:
    seconds = serving.status.seconds
    return seconds.get("read", 0.0) + seconds.get("apply", 0.0)
