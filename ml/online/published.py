"""A serving model that is synchronised as a server is: through packages in a sync folder."""

from __future__ import annotations

import time

from ml.datasets.batch import Batch
from ml.online.cadence import Cadence
from ml.online.serving import NAME, Floats, SyncStats
from ml.recipes.online import SyncRecipe
from ml.sync.folder import SyncFolder
from ml.sync.publisher import Inputs, Publisher
from ml.sync.receiver import Receiver
from ml.training.state import TrainState


class PublishedServing:
    """Publishes the changes of a state into a sync folder, and serves what a receiver has applied from it.

    A run begins with a snapshot. Other receivers of the folder get the same packages. It is a `Serving`.

    Args:
        folder: Where packages are published.
        state: The state under training.
        inputs: Writes the files of a bundle other than its model; see `Publisher`.
        dataset: Name of the dataset.
        model: Name of the model.
        run_id: Identifies the training history.
        sync: Format of rows, cadence and byte budget.

    Raises:
        LookupError: The receiver has refused the snapshot.
    """

    def __init__(
        self, folder: SyncFolder, state: TrainState, inputs: Inputs, *, dataset: str, model: str, run_id: str, sync: SyncRecipe
    ) -> None:
        self._publisher = Publisher(folder, state, inputs, dataset=dataset, model=model, run_id=run_id, recipe=sync)
        self._cadence = Cadence(sync)
        self._publisher.snapshot()
        self.receiver = Receiver(folder, NAME)
        self.receiver.load()

    def sync(self, state: TrainState, number: int, learned: tuple[int, int] | None) -> SyncStats:
        """Publish a delta, and a snapshot if one is due, and apply them; see `Serving.sync`.

        Raises:
            RuntimeError: The receiver has refused the packages; the message has the reason.
        """
        began, due = time.perf_counter(), self._cadence.next(number, learned)
        if learned is None:
            return SyncStats("delta", self._publisher.version, 0, 0, 0, has_dense=False)
        published = self._publisher.publish(learned, due.dense).manifest
        nbytes = published.nbytes
        if due.snapshot:
            nbytes += self._publisher.snapshot(learned[1]).manifest.nbytes
        self.receiver.poll()
        status = self.receiver.status
        if status.version != published.version:
            raise RuntimeError(
                f"the serving model is at version {status.version} after version {published.version} was published: "
                f"{status.last_refusal}"
            )
        return SyncStats(
            kind="snapshot" if due.snapshot else "delta",
            version=published.version,
            rows=published.rows,
            deleted=published.deleted,
            nbytes=nbytes,
            has_dense=due.dense,
            seconds=time.perf_counter() - began,
        )

    def predict(self, batch: Batch) -> Floats:
        """Predict probabilities with the receiver's bundle; see `Serving.predict`."""
        return self.receiver.bundle.score(batch, sampled=True)
