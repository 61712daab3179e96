"""Publishes what a trainer has learned: a snapshot at the start of a run, then deltas of the rows and the dense part.

Packages hold the tombstones of deleted ids, so the tables keep theirs only until the next package is published. Receivers that
read the packages later need no further data from the trainer.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn
from upath import UPath

from ml.artifacts.delta import acknowledge, model_delta, register_receiver, steps_of
from ml.artifacts.predictor import TorchPredictor
from ml.artifacts.snapshot import STATE, digest, read_state
from ml.artifacts.weights import dense_of, fill, quantised_of
from ml.embeddings.inference.kinds import quantisable
from ml.embeddings.inference.quantise import quantise_bags
from ml.embeddings.interface import bags_of
from ml.models.build import build_model
from ml.recipes.online import SyncRecipe
from ml.sync.collect import collect
from ml.sync.folder import SyncFolder
from ml.sync.manifest import PackageManifest, RowFormat
from ml.sync.rows import DELTA_FILE, delta_to_bytes
from ml.training.state import TrainState

NAME = "sync"
"""Name of the folder among the receivers of the tables' deltas."""

Inputs = Callable[[UPath], Mapping[str, str]]
"""Writes the files of a bundle other than its model into a folder, and returns their SHA-256 by name."""


@dataclass(frozen=True)
class Published:
    """A package that was published.

    Attributes:
        manifest: Its manifest.
        seconds: Wall-clock seconds by activity: `create` the delta, `encode` and `write` the package, and `collect` old ones.
        collected: Number of old packages that were deleted.
    """

    manifest: PackageManifest
    seconds: Mapping[str, float] = field(default_factory=dict, compare=False)
    collected: int = 0


class Publisher:
    """Publishes one run of one model.

    Args:
        folder: Where packages are published.
        state: The state under training. Its tables keep tombstones for the publisher.
        inputs: Writes the files of a bundle other than its model, as `ml.artifacts.bundle.write_inputs` does.
        dataset: Name of the dataset.
        model: Name of the model.
        run_id: Identifies the training history. Another history of the same model needs another one.
        recipe: Format of rows, and the time after which silent receivers are dropped.
        version: Version that the state has; above 0 if the run continues in this process.

    Raises:
        Gap: The tables no longer have the tombstones that the next delta needs. Start a new run.
    """

    def __init__(
        self,
        folder: SyncFolder,
        state: TrainState,
        inputs: Inputs,
        *,
        dataset: str,
        model: str,
        run_id: str,
        recipe: SyncRecipe,
        version: int = 0,
    ) -> None:
        self.folder, self.run_id, self.version = folder, run_id, version
        self._state, self._inputs, self._recipe = state, inputs, recipe
        self._names = {"dataset": dataset, "model": model, "run_id": run_id}
        self._steps = steps_of(state.model)
        register_receiver(state.model, NAME, self._steps)

    def snapshot(self, event_to: int | None = None) -> Published:
        """Publish the whole model as a bundle without optimizer state, with the version of the last delta.

        Packages that no receiver needs any more are deleted afterwards.

        Args:
            event_to: Latest event that the model was trained on, in microseconds since 1970 UTC; None before any.

        Raises:
            RunConflict: The version was published before with other contents.
            ValueError: The state was trained since the last delta, which must be published first.
        """
        began, steps = time.perf_counter(), steps_of(self._state.model)
        if steps != self._steps:
            raise ValueError(f"the model is at the steps {steps}, the last delta at {self._steps}: publish a delta first")
        predictor = serving_copy(self._state, self._recipe.rows)
        created = time.perf_counter()

        def write(staging: UPath) -> dict[str, str]:
            predictor.save(staging, self._inputs(staging))
            return {**read_state(staging)["files"], STATE: digest(staging)}

        manifest = self._manifest(
            kind="snapshot", event_to=event_to, has_dense=True, rows=rows_of(predictor.model), steps=steps
        )
        manifest = self.folder.publish(manifest, write)
        written = time.perf_counter()
        deleted = collect(self.folder, self._recipe.receiver_ttl * 3600)
        seconds = {"create": created - began, "write": written - created, "collect": time.perf_counter() - written}
        return Published(manifest, seconds, deleted)

    def publish(self, events: tuple[int, int] | None, dense: bool = True) -> Published:
        """Publish a delta: the rows that have changed since the last one, and the dense part.

        Args:
            events: First and last event that the state was trained on since the last delta, in microseconds since 1970 UTC;
                None if it was not trained.
            dense: Whether to include the dense part.

        Raises:
            Gap: The tables no longer have all changes since the last delta. Start a new run.
            RunConflict: The version was published before with other contents.
        """
        began = time.perf_counter()
        delta = model_delta(self._state.model, self._steps, dense=dense)
        created = time.perf_counter()
        data = delta_to_bytes(delta, self._recipe.rows)
        encoded = time.perf_counter()
        tables = [table for own in delta.tables.values() for table in own.tables.values()]
        steps = {path: own.step for path, own in delta.tables.items()}
        manifest = self._manifest(
            kind="delta",
            version=self.version + 1,
            base_version=self.version,
            steps=steps,
            since=self._steps,
            event_from=events[0] if events else None,
            event_to=events[1] if events else None,
            rows=sum(len(table.keys) for table in tables),
            deleted=sum(len(table.deleted) for table in tables),
            has_dense=dense,
        )
        manifest = self.folder.publish(manifest, {DELTA_FILE: data})
        self.version, self._steps = self.version + 1, steps
        acknowledge(self._state.model, NAME, steps)
        seconds = {"create": created - began, "encode": encoded - created, "write": time.perf_counter() - encoded}
        return Published(manifest, seconds)

    def _manifest(self, **keys: Any) -> PackageManifest:
        whole = {"version": self.version, "row_format": self._recipe.rows, "files": {}, "published_at": time.time()}
        return PackageManifest.model_validate(self._names | whole | keys)


def serving_copy(state: TrainState, rows: RowFormat) -> TorchPredictor:
    """Copy the model of a state for inference, with its tables quantised to a row format."""
    model = build_model(state.recipe, state.schema).requires_grad_(False).eval()
    packed = quantisable(state.model)
    for path, bags in bags_of(state.model).items():
        if path in packed:
            model.set_submodule(path, quantise_bags(bags, rows)[0])
        else:
            bags_of(model)[path].restore(bags.weights(), None)
    fill(dense_of(model), dense_of(state.model))
    return TorchPredictor(model, state.recipe, state.schema)


def rows_of(model: nn.Module) -> int:
    """Count the rows of all tables of a model."""
    held = {**bags_of(model), **quantised_of(model)}
    return sum(config.num_embeddings for bags in held.values() for config in bags.embedding_bag_configs())
