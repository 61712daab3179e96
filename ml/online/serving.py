"""The serving model of online training, which changes only when it is synchronised with the trained model."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt
import torch

from ml.artifacts.delta import ModelDelta, acknowledge, apply_delta, model_delta, register_receiver, steps_of
from ml.artifacts.predictor import TorchPredictor
from ml.artifacts.snapshot import Tensors
from ml.artifacts.weights import bytes_of, dense_of, fill, load_weights, weights_of
from ml.datasets.batch import Batch
from ml.embeddings.delta import TableDelta
from ml.embeddings.inference.formats import fitting, row_bytes
from ml.embeddings.inference.quantise import quantise_tables
from ml.models.build import build_model
from ml.online.cadence import Cadence
from ml.recipes.online import SyncRecipe
from ml.training.state import TrainState

Floats = npt.NDArray[np.float32]
NAME = "serving"
"""Name of the serving model among the receivers of the trained model's deltas."""
_ID_BYTES = 8
_CLOCK = "serving.learned_to"


@dataclass(frozen=True)
class SyncStats:
    """What one synchronisation sent.

    Attributes:
        kind: `snapshot` for the whole model, or `delta`.
        version: Version of the serving model afterwards; versions count the synchronisations of a run.
        rows: Number of updated rows in all tables.
        deleted: Number of deleted rows.
        nbytes: Bytes that were sent.
        has_dense: Whether the dense parameters were sent.
        seconds: Wall-clock time.
        rows_by_table: Updated rows by table.
    """

    kind: Literal["snapshot", "delta"]
    version: int
    rows: int
    deleted: int
    nbytes: int
    has_dense: bool
    seconds: float = field(default=0.0, compare=False)
    rows_by_table: Mapping[str, int] = field(default_factory=dict)


class Serving(Protocol):
    """A model that serves while another one is trained."""

    def sync(self, state: TrainState, number: int, learned: tuple[int, int] | None) -> SyncStats:
        """Bring the serving model up to date.

        Args:
            state: The state under training.
            number: Index of the slice of the day that the serving model predicts next.
            learned: First and last event time that the state was trained on since the previous synchronisation, in microseconds
                since 1970 UTC; None if it was not trained.
        """
        ...

    def predict(self, batch: Batch) -> Floats:
        """Predict probabilities that can be scored against the labels of a batch, float32 [B]. May run in another thread."""
        ...


class ServingCopy:
    """A copy of the trained model in this process, with its rows in the format of the recipe.

    It receives the same deltas as a server, but no files are written.

    Args:
        state: The state under training, which the copy equals at first.
        sync: Format of rows, and cadence of dense parameters and snapshots.
        version: Version of the copy.
        tensors: What `tensors` returned, to continue from a checkpoint of `state`.

    Attributes:
        predictor: The copy. It changes only while `sync` runs.
        delta: The changes that the last synchronisation has applied; None before the first one.
    """

    def __init__(self, state: TrainState, sync: SyncRecipe, version: int = 0, tensors: Tensors | None = None) -> None:
        model = build_model(state.recipe, state.schema).requires_grad_(False).eval()
        load_weights(model, weights_of(state.model))
        quantise_tables(model, sync.rows)
        self.predictor, self._recipe, self._version = TorchPredictor(model, state.recipe, state.schema), sync, version
        self._cadence = Cadence(sync)
        self.delta: ModelDelta | None = None
        if tensors is not None:
            fill(dense_of(model), {name: tensor for name, tensor in tensors.items() if name != _CLOCK})
            self._cadence.learned_to = int(tensors[_CLOCK]) if len(tensors[_CLOCK]) else None
        register_receiver(state.model, NAME, self.predictor.steps)

    @property
    def nbytes(self) -> int:
        """Bytes of the copy, which a snapshot sends."""
        return bytes_of(self.predictor.model)

    def sync(self, state: TrainState, number: int, learned: tuple[int, int] | None) -> SyncStats:
        """Apply the changes of the state; see `Serving.sync`."""
        began, model = time.perf_counter(), self.predictor.model
        has_dense, whole = self._cadence.next(number, learned)
        self.delta = delta = model_delta(state.model, self.predictor.steps)
        apply_delta(model, delta if has_dense else ModelDelta(dense_of(model), delta.tables))
        acknowledge(state.model, NAME, steps_of(model))
        if learned is not None:
            self._version += 1
        tables = {name: table for own in delta.tables.values() for name, table in own.tables.items()}
        dense_bytes = sum(tensor.nbytes for tensor in delta.dense.values()) if has_dense else 0
        return SyncStats(
            kind="snapshot" if whole else "delta",
            version=self._version,
            rows=sum(len(table.keys) for table in tables.values()),
            deleted=sum(len(table.deleted) for table in tables.values()),
            nbytes=self.nbytes if whole else dense_bytes + sum(self._bytes_of(table) for table in tables.values()),
            has_dense=has_dense,
            seconds=time.perf_counter() - began,
            rows_by_table={name: len(table.keys) for name, table in tables.items()},
        )

    def predict(self, batch: Batch) -> Floats:
        """Predict probabilities; see `Serving.predict`."""
        return self.predictor.predict(batch, sampled=True)

    def tensors(self) -> Tensors:
        """Return what the copy depends on apart from the state: dense parameters and the time of the last synchronisation.

        A checkpoint that is taken between a synchronisation and the training of a slice stores it.
        """
        learned_to = self._cadence.learned_to
        dense = {name: tensor.clone() for name, tensor in dense_of(self.predictor.model).items()}
        return dense | {_CLOCK: torch.tensor([] if learned_to is None else [learned_to], dtype=torch.int64)}

    def _bytes_of(self, table: TableDelta) -> int:
        width = row_bytes(fitting(self._recipe.rows, table.weights.shape[1]), table.weights.shape[1])
        return len(table.keys) * (_ID_BYTES + width) + len(table.deleted) * _ID_BYTES
