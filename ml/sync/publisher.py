"""Publishes a model in training: a snapshot at the start of a run, then deltas of the rows and the dense part.

Packages hold the tombstones of deleted ids, so the tables keep theirs only until the next package is published. Receivers that
read the packages later need no further data from the trainer.

If several ranks train the model, every rank must make the same calls. The first rank merges the shares and publishes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from upath import UPath

from ml.artifacts.delta import ModelDelta, acknowledge, model_delta, register_receiver, steps_of
from ml.artifacts.snapshot import STATE, Tensors, digest, read_state
from ml.distributed.process_group import Ranks
from ml.recipes.online import SyncRecipe
from ml.sync.budget import Backlog
from ml.sync.collect import collect
from ml.sync.folder import SyncFolder
from ml.sync.manifest import Kind, PackageManifest, read_manifest
from ml.sync.rows import DELTA_FILE, delta_to_bytes
from ml.sync.serving_copy import gather_copy, rows_of
from ml.sync.shares import align_steps, gather_delta, gather_weights
from ml.training.state import TrainState

NAME = "serving"
"""Name among the receivers of the tables' deltas, shared with the serving model of `ml.online`, which is at the same step."""

Inputs = Callable[[UPath], Mapping[str, str]]
"""Writes the files of a bundle other than its model into a folder, and returns their SHA-256 by name."""


@dataclass(frozen=True)
class Published:
    """A package that was published.

    Attributes:
        manifest: Its manifest.
        seconds: Wall-clock seconds by activity: `create` the delta, `encode` and `write` the package, and `collect` old ones.
        collected: Number of old packages that were deleted.
        rows_by_table: Rows of a delta by table; on the first rank only.
    """

    manifest: PackageManifest
    seconds: Mapping[str, float] = field(default_factory=dict, compare=False)
    collected: int = 0
    rows_by_table: Mapping[str, int] = field(default_factory=dict)


class Publisher:
    """Publishes one run of one model.

    Args:
        folder: Where packages are published.
        state: The state under training. Its tables keep tombstones for the publisher.
        inputs: Writes the files of a bundle other than its model, as `ml.artifacts.bundle.write_inputs` does.
        dataset: Name of the dataset.
        model: Name of the model.
        run_id: Identifies the training history. Another history of the same model needs another one.
        recipe: Format of rows, byte budget, and the time after which silent receivers are dropped.
        version: Version that the state has; above 0 if the run continues in this process.
        tensors: What `tensors` returned at that version, which a run with a byte budget needs to continue; not after a delta
            that has held back nothing.
        ranks: The processes that train together; None for one.

    Raises:
        Gap: The tables no longer have the tombstones that the next delta needs. Start a new run.
        ValueError: Each rank trains its own embeddings, or a run with a byte budget continues without `tensors`.
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
        tensors: Mapping[str, torch.Tensor] | None = None,
        ranks: Ranks | None = None,
    ) -> None:
        if ranks is not None and state.recipe.embeddings == "independent":
            raise ValueError("embeddings: independent: each rank has its own rows until the end of a day; use sharded")
        self.folder, self.run_id, self.version = folder, run_id, version
        self._state, self._inputs, self._recipe, self._ranks = state, inputs, recipe, ranks
        self._names = {"dataset": dataset, "model": model, "run_id": run_id}
        align_steps(state, ranks)
        self._steps = steps_of(state.model)
        for bags in state.bags.values():
            bags.set_receiver_ttl(recipe.receiver_ttl * 3600)
        register_receiver(state.model, NAME, self._steps)
        self._backlog = self._new_backlog(tensors) if recipe.byte_budget is not None else None

    def begin(self) -> None:
        """Publish a snapshot at the publisher's version, unless receivers can follow the run from what is in the folder.

        Raises:
            RunConflict: The folder has another snapshot of this version.
        """
        head = self.folder.head()
        if self.folder.has(self.run_id, "snapshot", self.version):
            self.snapshot(self.folder.manifest(self.run_id, "snapshot", self.version).event_to)
        elif head is None or head.run_id != self.run_id or head.version < self.version:
            self.snapshot()

    def snapshot(self, event_to: int | None = None) -> Published:
        """Publish the whole model as a bundle without optimizer state, with the version of the last delta.

        The rows that a byte budget has held back are included, and later deltas include them too. Packages that no receiver
        needs any more are deleted afterwards.

        Args:
            event_to: Latest event that the model was trained on, in microseconds since 1970 UTC; None before any.

        Raises:
            RunConflict: The version was published before with other contents.
            ValueError: The state was trained since the last delta, which must be published first.
        """
        began = time.perf_counter()
        align_steps(self._state, self._ranks)
        steps = steps_of(self._state.model)
        if steps != self._steps:
            raise ValueError(f"the model is at the steps {steps}, the last delta at {self._steps}: publish a delta first")
        predictor = gather_copy(self._state, self._recipe.rows, self._ranks)
        created = written = time.perf_counter()
        manifest, deleted = None, 0
        if predictor is not None:

            def write(staging: UPath) -> dict[str, str]:
                predictor.save(staging, self._inputs(staging))
                return {**read_state(staging)["files"], STATE: digest(staging)}

            manifest = self._manifest(
                kind="snapshot",
                event_to=event_to,
                has_dense=True,
                rows=rows_of(predictor.model),
                pending=self._backlog.pending if self._backlog else 0,
                steps=steps,
            )
            manifest = self.folder.publish(manifest, write)
            written = time.perf_counter()
            deleted = collect(self.folder, self._recipe.receiver_ttl * 3600)
        seconds = {"create": created - began, "write": written - created, "collect": time.perf_counter() - written}
        return Published(self._shared(manifest), seconds, deleted)

    def publish(
        self,
        events: tuple[int, int] | None,
        dense: bool = True,
        delta: ModelDelta | None = None,
        everything: bool = False,
    ) -> Published:
        """Publish a delta: the rows that have changed since the last one, and the dense part.

        With a byte budget, some rows are held back for later deltas. A delta without training publishes more of them.

        Args:
            events: First and last event that the state was trained on since the last delta, in microseconds since 1970 UTC;
                None if it was not trained.
            dense: Whether to include the dense part.
            delta: This rank's changes since the last delta, if they are known. Otherwise they are read from the tables.
            everything: Whether to publish all rows that were held back, whatever the budget.

        Raises:
            Gap: The tables no longer have all changes since the last delta. Start a new run.
            RunConflict: The version was published before with other contents.
        """
        began = time.perf_counter()
        share = model_delta(self._state.model, self._steps, dense=dense) if delta is None else delta
        if not dense:
            share = ModelDelta({}, share.tables)
        steps = {path: own.step for path, own in share.tables.items()}
        delta = gather_delta(share, self._ranks)
        created = encoded = time.perf_counter()
        manifest = None
        if delta is not None:
            delta, pending = self._backlog.select(delta, everything) if self._backlog else (delta, 0)
            data = delta_to_bytes(delta, self._recipe.rows)
            encoded = time.perf_counter()
            manifest = self._delta_manifest(delta, steps, events, dense, pending)
            manifest = self.folder.publish(manifest, {DELTA_FILE: data})
        manifest = self._shared(manifest)
        self.version, self._steps = self.version + 1, steps
        # Registering again keeps the publisher from being dropped after a gap between the events of the log.
        register_receiver(self._state.model, NAME, steps)
        acknowledge(self._state.model, NAME, steps)
        seconds = {"create": created - began, "encode": encoded - created, "write": time.perf_counter() - encoded}
        tables = {name: len(t.keys) for own in (delta.tables.values() if delta else ()) for name, t in own.tables.items()}
        return Published(manifest, seconds, rows_by_table=tables)

    def tensors(self) -> Tensors:
        """Return what the next package depends on apart from the state under training, for a checkpoint at this version.

        The rows that a byte budget has held back, and what is known of published rows; on ranks after the first, nothing.
        """
        return self._backlog.tensors() if self._backlog else {}

    def _new_backlog(self, tensors: Mapping[str, torch.Tensor] | None) -> Backlog | None:
        kept = tensors if self.version else None
        weights = gather_weights(self._state, self._ranks) if kept is None else None
        if self._ranks is not None and self._ranks.rank:
            return None
        budget = self._recipe.byte_budget
        assert budget is not None
        if weights is not None and self.version and self._pending():
            raise ValueError(f"byte_budget: the run continues at version {self.version} without its tensors: start a new run")
        backlog = Backlog(budget, self._recipe.rows, kept)
        if weights is not None:
            backlog.begin(weights)
        return backlog

    def _pending(self) -> int:
        """Return the number of rows that the current version has held back; 0 if it was not published."""
        kinds: tuple[Kind, ...] = ("delta", "snapshot")
        for kind in kinds:
            if self.folder.has(self.run_id, kind, self.version):
                return self.folder.manifest(self.run_id, kind, self.version).pending
        return 0

    def _delta_manifest(
        self, delta: ModelDelta, steps: Mapping[str, int], events: tuple[int, int] | None, dense: bool, pending: int
    ) -> PackageManifest:
        tables = [table for own in delta.tables.values() for table in own.tables.values()]
        return self._manifest(
            kind="delta",
            version=self.version + 1,
            base_version=self.version,
            steps=steps,
            since=self._steps,
            event_from=events[0] if events else None,
            event_to=events[1] if events else None,
            rows=sum(len(table.keys) for table in tables),
            deleted=sum(len(table.deleted) for table in tables),
            pending=pending,
            has_dense=dense,
        )

    def _manifest(self, **keys: Any) -> PackageManifest:
        whole = {"version": self.version, "row_format": self._recipe.rows, "files": {}, "published_at": time.time()}
        return PackageManifest.model_validate(self._names | whole | keys)

    def _shared(self, manifest: PackageManifest | None) -> PackageManifest:
        """Return the first rank's manifest on all ranks."""
        if self._ranks is not None:
            data = self._ranks.broadcast_bytes(manifest.model_dump_json().encode() if manifest else None)
            return read_manifest(data, "the first rank's manifest")
        assert manifest is not None
        return manifest
