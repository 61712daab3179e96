"""A serving model that receives packages from a folder, as a server does, with sums of what that costs."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

from ml.artifacts.weights import dense_of
from ml.datasets.batch import Batch
from ml.online.cadence import Cadence
from ml.online.serving import Floats, SyncStats
from ml.recipes.online import SyncRecipe
from ml.sync.folder import SyncFolder
from ml.sync.publisher import Inputs, Publisher
from ml.sync.receiver import Receiver
from ml.training.state import TrainState

_RUN = "study"


class PublishedServing:
    """A serving model behind a folder of packages: `ml.online.serving.Serving` with a publisher and a receiver.

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
        self._publisher = Publisher(place, state, inputs, dataset=dataset, model=_RUN, run_id=_RUN, recipe=sync)
        self.snapshot_bytes = self._publisher.snapshot().manifest.nbytes
        self._receiver, self._cadence = Receiver(place, "serving"), Cadence(sync)
        self._receiver.load()
        self._dense_bytes = sum(tensor.nbytes for tensor in dense_of(state.model).values())
        self.totals, self.seconds, self.pending = Counter[str](), Counter[str](), 0

    def sync(self, state: TrainState, number: int, learned: tuple[int, int] | None) -> SyncStats:
        """Publish a delta and apply it; see `Serving.sync`. Nothing is sent before the state has been trained."""
        if learned is None:
            return SyncStats("delta", 0, 0, 0, 0, has_dense=False)
        began = time.perf_counter()
        dense = self._cadence.next(number, learned).dense
        published = self._publisher.publish(learned, dense=dense)
        sent = time.perf_counter()
        applied = self._receiver.poll()
        ended, manifest = time.perf_counter(), published.manifest
        if applied is None or applied.version != manifest.version:
            raise RuntimeError(f"{manifest.name} was not applied: {self._receiver.status.last_refusal}")
        self.totals.update(syncs=1, rows=manifest.rows, nbytes=manifest.nbytes, dense_bytes=self._dense_bytes if dense else 0)
        self.seconds.update({**published.seconds, "apply": ended - sent})
        self.pending = manifest.pending
        return SyncStats(
            "delta", manifest.version, manifest.rows, manifest.deleted, manifest.nbytes, dense, seconds=ended - began
        )

    def predict(self, batch: Batch) -> Floats:
        """Predict probabilities with the receiver's bundle; see `Serving.predict`."""
        return self._receiver.bundle.score(batch, sampled=True)
