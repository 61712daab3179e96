"""Runs of a small model that is published into a sync folder, for tests of receivers."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from upath import UPath

from ml.artifacts.bundle import Bundle, write_inputs
from ml.artifacts.weights import quantised_of, weights_of
from ml.recipes.online import SyncRecipe
from ml.sync.folder import HEAD, Acknowledgement, SyncFolder
from ml.sync.publisher import Publisher
from ml.sync.serving_copy import serving_copy
from ml.training.passes import train_pass
from ml.training.state import TrainState
from tests.helpers.training_days import made_spec, make_batches
from tests.helpers.training_states import SCHEMA, begun

Tensors = dict[str, torch.Tensor]


def inputs(folder: UPath) -> dict[str, str]:
    return dict(write_inputs(folder, made_spec(), {}))


class Run:
    """A trainer and its publisher. `history` has the tensors of each version.

    Args:
        root: The sync folder.
        run_id: The run.
        name: Name of the model.
        overrides: Recipe of the model.
    """

    def __init__(self, root: Path, run_id: str = "a1", name: str = "dlrm", rows: str = "float32", **overrides: Any) -> None:
        self.folder, self.root, self.run_id, self.state = SyncFolder.at(root), root, run_id, begun(**overrides)
        self.history: dict[int, Tensors] = {}
        self.train()
        recipe = SyncRecipe.model_validate({"rows": rows})
        self.publisher = Publisher(self.folder, self.state, inputs, dataset="made", model=name, run_id=run_id, recipe=recipe)
        self.publisher.snapshot(event_to=0)
        self._note()

    def train(self) -> None:
        number = len(self.history)
        batches = [replace(b, event_time=b.event_time + number * 1_000_000) for b in make_batches(SCHEMA, 2, seed=number)]
        for batch in batches:
            batch.sparse.values().add_(5 * number)  # each version has ids of its own
        train_pass(self.state, batches, total_steps=2)

    def advance(self, versions: int = 1, change: Callable[[TrainState], None] | None = None) -> None:
        """Train and publish deltas. Event times of version n end at n seconds."""
        for _ in range(versions):
            self.train()
            if change is not None:
                change(self.state)
            version = self.publisher.version + 1
            self.publisher.publish((version * 1_000_000 - 999_999, version * 1_000_000))
            self._note()

    def keep_all(self) -> None:
        """Register a receiver that stays at version 0, so that no package is deleted."""
        self.folder.acknowledge(Acknowledgement("late", self.run_id, 0, {}, time.time()))

    def snapshot(self) -> None:
        self.publisher.snapshot(self.publisher.version * 1_000_000)

    def package(self, kind: str, version: int) -> Path:
        return self.root / self.run_id / f"{kind}s" / f"{version:010d}"

    def _note(self) -> None:
        self.history[self.publisher.version] = tensors_of(self.state)


def tensors_of(state: TrainState) -> Tensors:
    return {name: tensor.clone() for name, tensor in weights_of(serving_copy(state, "float32").model).items()}


def serves(bundle: Bundle, wanted: Tensors) -> bool:
    """Whether a bundle has these tensors, bit for bit."""
    found = weights_of(bundle.predictor.model)  # type: ignore[attr-defined]
    return found.keys() == wanted.keys() and all(torch.equal(found[name], wanted[name]) for name in wanted)


def rows_of(bundle: Bundle) -> int:
    return sum(c.num_embeddings for bags in quantised_of(bundle.predictor.model).values() for c in bags.embedding_bag_configs())  # type: ignore[attr-defined]


def rewrite_manifest(package: Path, **keys: Any) -> None:
    """Change keys of a manifest that is otherwise valid."""
    path = package / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | keys))


def point_head(root: Path, run_id: str, version: int, snapshot: int) -> None:
    root.mkdir(parents=True, exist_ok=True)
    (root / HEAD).write_text(json.dumps({"run_id": run_id, "version": version, "snapshot": snapshot}))


def copy_package(source: Path, target: Path) -> None:
    """Copy a package so that it appears whole."""
    aside = target.with_name(f".{target.name}")
    aside.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(source, aside)
    aside.rename(target)


def redigest(package: Path, name: str) -> None:
    """Make a manifest agree with a changed file."""
    manifest = json.loads((package / "manifest.json").read_text())
    manifest["files"][name] = hashlib.sha256((package / name).read_bytes()).hexdigest()
    (package / "manifest.json").write_text(json.dumps(manifest))
