"""The serving model of online training as servers have it: a receiver that applies the packages of a publisher.

It takes the place of `ml.online.serving.ServingCopy` where servers can lag behind what was trained. With a byte budget, rows
are held back, and with a probe, a version that is worse is rolled back. What is scored is then what is served.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch

from ml.artifacts.predictor import TorchPredictor
from ml.artifacts.snapshot import Tensors
from ml.artifacts.weights import bytes_of
from ml.datasets.batch import Batch
from ml.online.cadence import Cadence
from ml.online.serving import Floats, SyncStats
from ml.recipes.online import SyncRecipe
from ml.sync.folder import Acknowledgement, Head, SyncFolder
from ml.sync.manifest import Kind
from ml.sync.probe import Probe
from ml.sync.publisher import Published, Publisher
from ml.sync.receiver import Receiver
from ml.sync.status import ReceiverStatus
from ml.training.state import TrainState

NAME = "online-scores"
"""Name of the receiver. Until the end of a day, it keeps the packages of the day from being deleted."""
PUBLISHER = "publisher/"
_CLOCK, _VERSIONS = "learned_to", "versions"


class PublishedServing:
    """A receiver that applies what a publisher publishes, in this process.

    A resumed day finds the packages that it has published, and applies those up to the checkpoint again one after the other.

    Args:
        publisher: The publisher, at the version of the state. Its folder has a snapshot of this version, or an earlier one and
            the deltas after it.
        sync: Cadence of dense parameters and snapshots.
        probe: Rows to score each version on; None for none.
        tensors: What `tensors` returned, to continue.

    Attributes:
        publisher: The publisher.
        published: The package of the last synchronisation; None if nothing was published.
    """

    delta = None  # it is in the packages
    published: Published | None

    def __init__(
        self,
        publisher: Publisher,
        sync: SyncRecipe,
        probe: Probe | None,
        tensors: Mapping[str, torch.Tensor] | None = None,
    ) -> None:
        self.publisher, self.published = publisher, None
        base, clock = publisher.version, None
        if tensors is not None:
            base = int(tensors[_VERSIONS][0])
            clock = int(tensors[_CLOCK]) if len(tensors[_CLOCK]) else None
        self._base, self._cadence = base, Cadence(sync, clock)
        self._view = _View(publisher.folder.root, publisher.run_id, base, [base])
        self._receiver = Receiver(self._view, NAME, probe)
        self._view.acknowledge(Acknowledgement(NAME, publisher.run_id, base, {}, time.time()))
        self._receiver.load()
        for version in range(base + 1, publisher.version + 1):
            self._follow(version)

    @property
    def predictor(self) -> TorchPredictor:
        """The served model. A synchronisation may replace it."""
        found = self._receiver.bundle.predictor
        assert isinstance(found, TorchPredictor)
        return found

    @property
    def nbytes(self) -> int:
        """Bytes of the served model, which a snapshot sends."""
        return bytes_of(self.predictor.model)

    @property
    def status(self) -> ReceiverStatus:
        """State of the receiver."""
        return self._receiver.status

    def sync(self, state: TrainState, number: int, learned: tuple[int, int] | None) -> SyncStats:
        """Publish the changes of the state, and apply what was published; see `ml.online.serving.Serving.sync`.

        Raises:
            RunConflict: The version was published before with other contents.
            Gap: The tables no longer have all changes since the last delta.
        """
        began = time.perf_counter()
        has_dense, whole = self._cadence.next(number, learned)
        self.published = published = None if learned is None else self.publisher.publish(learned, has_dense)
        nbytes = published.manifest.nbytes if published else 0
        if whole and learned is not None:
            nbytes = self.publisher.snapshot(learned[1]).manifest.nbytes
        self._follow(self.publisher.version)
        version = self._receiver.status.version
        assert version is not None
        return SyncStats(
            kind="snapshot" if whole else "delta",
            version=version,
            rows=published.manifest.rows if published else 0,
            deleted=published.manifest.deleted if published else 0,
            nbytes=nbytes,
            has_dense=has_dense,
            seconds=time.perf_counter() - began,
            rows_by_table=published.rows_by_table if published else {},
        )

    def predict(self, batch: Batch) -> Floats:
        """Predict probabilities; see `ml.online.serving.Serving.predict`."""
        return self._receiver.bundle.score(batch, sampled=True)

    def tensors(self) -> Tensors:
        """Return what the serving model depends on apart from the state and the packages, for a checkpoint."""
        clock = self._cadence.learned_to
        own = {
            _CLOCK: torch.tensor([] if clock is None else [clock], dtype=torch.int64),
            _VERSIONS: torch.tensor([self._base, self.publisher.version]),
        }
        return own | {f"{PUBLISHER}{name}": tensor for name, tensor in self.publisher.tensors().items()}

    def end(self) -> None:
        """Let the packages of the day be deleted."""
        self.publisher.folder.drop(NAME)

    def _follow(self, version: int) -> None:
        self._view.newest[0] = version
        self._receiver.poll()


def published_version(tensors: Mapping[str, torch.Tensor]) -> int:
    """Return the version of the publisher at a checkpoint, from what `PublishedServing.tensors` returned."""
    return int(tensors[_VERSIONS][1])


@dataclass(frozen=True)
class _View(SyncFolder):
    """A sync folder as it was when a version of a run was the newest."""

    run_id: str = ""
    base: int = 0
    newest: list[int] = field(default_factory=list)

    def head(self) -> Head | None:
        snapshots = self.versions(self.run_id, "snapshot")
        return Head(self.run_id, self.newest[0], snapshots[-1]) if snapshots else None

    def versions(self, run_id: str, kind: Kind) -> list[int]:
        return [version for version in super().versions(run_id, kind) if version <= self.newest[0]]

    def acknowledge(self, done: Acknowledgement) -> None:
        super().acknowledge(replace(done, run_id=self.run_id, version=self.base, steps={}))
