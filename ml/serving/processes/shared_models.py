"""Models that one process keeps up to date and others predict with.

Rows are in shared memory: a worker reads a delta's rows as soon as they are written. The other parts of a model, which are
small, are copied to each worker with each version, loaded beside those of the last version, and then put in their place. Until
then a worker predicts with new rows and the last version's dense part. Tables that combine several rows per id (compositional)
are not shared, and are copied like the dense part.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import NamedTuple

from torch import nn

from ml.artifacts.bundle import Bundle
from ml.artifacts.predictor import TorchPredictor, quantised_layers, served_model
from ml.artifacts.snapshot import Tensors
from ml.artifacts.weights import quantised_of, unquantised_weights
from ml.embeddings.inference.quantised import QuantisedBags
from ml.embeddings.inference.shared.attached_rows import AttachedRows
from ml.embeddings.inference.shared.board import Board
from ml.embeddings.inference.shared.epochs import SharedEpochs
from ml.embeddings.inference.shared.pickling import Dump, RowsReader, dump, share_rows
from ml.embeddings.inference.shared.ranges import RangeHandle, SharedRange, StaleRange
from ml.embeddings.interface import TrainableBags
from ml.recipes.recipe import Recipe
from ml.schema import FeatureSchema
from ml.serving.models import ModelVersion, ServedModel

LOOK_SECONDS, LONGEST_PAUSE = 0.02, 5.0
"""Seconds between two looks for new versions, which double with each error in succession, and the most of them."""
SILENT_SECONDS = 10.0
"""A model is behind by at least the time since its last publication, if that is longer: versions may have come meanwhile."""
_MOST = 4 << 20  # bytes of what is published of all models
_log = logging.getLogger("evergreen")


class _Published(NamedTuple):
    """What workers need of one model.

    Attributes:
        version: What is served, without its lag.
        behind_since: When the first version was published that is not served, in seconds since 1970 UTC; None without one.
        looked_at: When the writer had looked for new versions, by `time.monotonic`, which all processes of a machine share.
        inputs: The specification and the vocabularies of the bundle.
        predictor: The `_Parts` of the model.
    """

    version: ModelVersion
    behind_since: float | None
    looked_at: float
    inputs: Dump
    predictor: Dump


class _Held(NamedTuple):
    """The memory of what was published of one model, and what it was made from."""

    bundle: Bundle
    changes: int
    published: _Published
    memory: tuple[SharedRange, SharedRange]


class SharedModels:
    """Publishes models for workers.

    Args:
        models: The models by name.
        epochs: The readers of rows; the caller is the writer.
    """

    def __init__(self, models: Mapping[str, ServedModel], epochs: SharedEpochs) -> None:
        self._models, self._epochs, self._board = models, epochs, Board.create(_MOST)
        self._held: dict[str, _Held] = {}
        self.publish()

    @property
    def handle(self) -> RangeHandle:
        """Identifies the models for workers."""
        return self._board.handle

    def publish(self) -> None:
        """Let workers predict with the models as they are now. No model may change during the call."""
        held = {name: self._hold(model, self._held.get(name)) for name, model in self._models.items()}
        self._board.publish({name: own.published for name, own in held.items()})
        self._held = held  # the memory of the last ones is released only now, when no reader looks for it

    def _hold(self, model: ServedModel, before: _Held | None) -> _Held:
        bundle, version = model.bundle, model.version
        predictor = bundle.predictor
        assert isinstance(predictor, TorchPredictor)
        since, looked_at = time.time() - version.lag_seconds if version.lag_seconds else None, time.monotonic()
        version = replace(version, lag_seconds=0.0)
        if before is not None and (before.bundle, before.changes) == (bundle, predictor.changes):
            return before._replace(
                published=before.published._replace(version=version, behind_since=since, looked_at=looked_at)
            )
        share_rows(predictor.model, self._epochs)
        if before is not None and before.bundle is bundle:
            inputs, of_inputs = before.memory[0], before.published.inputs
        else:
            inputs, of_inputs = dump((bundle.spec, bundle.vocabularies))
        own, of_predictor = dump(_parts(predictor))
        published = _Published(version, since, looked_at, of_inputs, of_predictor)
        return _Held(bundle, predictor.changes, published, (inputs, own))


class _Parts(NamedTuple):
    """A model, as `served_model` builds it again."""

    recipe: Recipe
    schema: FeatureSchema
    layers: list[str]
    tables: dict[str, QuantisedBags]
    weights: Tensors


def _parts(predictor: TorchPredictor) -> _Parts:
    model = predictor.model
    weights = unquantised_weights(model)
    return _Parts(predictor.recipe, predictor.schema, quantised_layers(model), quantised_of(model), weights)


class AttachedPredictor(TorchPredictor):
    """One version of a torch model, whose rows another process may change.

    Args:
        model: The model; its quantised tables have attached rows.
        recipe: How it was trained.
        schema: The features that it reads.
        rows: Its collections of rows, with the number of changes at this version.
    """

    def __init__(self, model: nn.Module, recipe: Recipe, schema: FeatureSchema, rows: list[tuple[AttachedRows, int]]) -> None:
        super().__init__(model, recipe, schema)
        self._rows = rows

    @property
    def changes(self) -> int:  # type: ignore[override]
        """0 as long as the rows are those of this version, 1 afterwards; see `TorchPredictor`."""
        return int(any(rows.changes != at for rows, at in self._rows))


class AttachedModel:
    """A model of another process; see `ServedModel`. `AttachedModels` keeps it up to date."""

    def __init__(self, published: _Published, reader: RowsReader) -> None:
        self._published, self._reader = published, reader
        self.bundle = self._load(published)

    @property
    def version(self) -> ModelVersion:
        """What is served. The lag grows also while the other process is busy, stuck, or cannot be followed."""
        since, silent = self._published.behind_since, time.monotonic() - self._published.looked_at
        lag = 0.0 if since is None else max(time.time() - since, 0.0)
        return replace(self._published.version, lag_seconds=max(lag, silent) if silent > SILENT_SECONDS else lag)

    def poll(self) -> bool:
        """Return False: the other process looks for new versions."""
        return False

    def take(self, published: _Published) -> None:
        """Predict with another version from now on. Raises `StaleRange`, and changes nothing then."""
        before, bundle = self._published, self.bundle
        if published.inputs != before.inputs:
            bundle = self._load(published)
        elif published.predictor != before.predictor:
            bundle = bundle.with_predictor(self._predictor(published))
        self._published, self.bundle = published, bundle

    def _load(self, published: _Published) -> Bundle:
        (spec, vocabularies), _ = self._reader.load(published.inputs)
        return Bundle(spec, self._predictor(published), vocabularies)

    def _predictor(self, published: _Published) -> AttachedPredictor:
        loaded, rows = self._reader.load(published.predictor)
        parts: _Parts = loaded
        tables = {path: partial(_attached, bags) for path, bags in parts.tables.items()}
        model = served_model(parts.recipe, parts.schema, parts.layers, tables, parts.weights)
        return AttachedPredictor(model, parts.recipe, parts.schema, rows)


def _attached(bags: QuantisedBags, _: TrainableBags) -> QuantisedBags:
    return bags


class AttachedModels:
    """The models of another process, by name.

    Args:
        handle: From `SharedModels.handle`.
        epochs: The readers of rows, among which this process is.
    """

    def __init__(self, handle: RangeHandle, epochs: SharedEpochs) -> None:
        self._board, self._reader = Board.attach(handle), RowsReader(epochs)
        self._number = 0
        self._models: dict[str, AttachedModel] = {}
        self.refresh()

    @property
    def by_name(self) -> Mapping[str, ServedModel]:
        """The models."""
        return self._models

    def refresh(self) -> None:
        """Take the versions that were published since the last call. One thread may call it."""
        while self._board.number != self._number:
            number, published = self._board.read()
            try:
                for name, own in published.items():
                    if name in self._models:
                        self._models[name].take(own)
                    else:
                        self._models[name] = AttachedModel(own, self._reader)
            except StaleRange:
                if self._board.number == number:
                    raise
                continue  # published again meanwhile
            self._number = number

    def follow(self, stop: threading.Event) -> None:
        """Refresh until an event is set. An error is logged, and the last versions are served on."""
        pause = LOOK_SECONDS
        while not stop.wait(pause):
            try:
                self.refresh()
                pause = LOOK_SECONDS
            except Exception:
                pause = min(2 * pause, LONGEST_PAUSE)
                _log.exception("the last versions of the models are served on; the next look is in %.1f s", pause)
