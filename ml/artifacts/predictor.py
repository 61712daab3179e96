"""The model of a bundle: a torch model, as trained or quantised, stored in the layout of `ml.artifacts.snapshot`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError
from torch import nn
from upath import UPath

from ml.artifacts.delta import ModelDelta, ModelUndo, pending_delta, revert_served, steps_of
from ml.artifacts.snapshot import (
    STATE,
    TABLES,
    CheckpointShard,
    DamagedSnapshot,
    SnapshotMismatch,
    Tensors,
    below,
    differences,
    load_tensors,
    write_files,
    write_state,
)
from ml.artifacts.weights import load_weights, quantised_of, weights_of
from ml.datasets.batch import Batch
from ml.embeddings.inference.quantised import QuantisedBags
from ml.embeddings.interface import TrainableBags, bags_of
from ml.give_way import give_way
from ml.models.build import build_model
from ml.models.int8 import Int8Linear
from ml.models.predict import predict, predict_labels
from ml.recipes.recipe import AFTER_TRAINING, Recipe
from ml.recipes.tables import HashedTable, StaticTable, Table
from ml.schema import FeatureSchema


class Predictor(Protocol):
    """Any model that a bundle can hold. Quantisation and deltas apply to torch models only."""

    @property
    def schema(self) -> FeatureSchema:
        """The features that the model reads."""
        ...

    def predict(self, batch: Batch, sampled: bool = False) -> npt.NDArray[np.float32]:
        """Compute click probabilities.

        Args:
            batch: B rows; labels are not needed.
            sampled: True for probabilities on the down-sampled rows, which can be scored against their labels; needs the
                batch's `sample_rate`. False for probabilities in the full log.

        Returns:
            float32 [B].
        """
        ...

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the L labels that the model predicts, the main label first."""
        ...

    def predict_labels(self, batch: Batch, sampled: bool = False) -> npt.NDArray[np.float32]:
        """Compute the probabilities of `labels`, float32 [B, L]; arguments as for `predict`."""
        ...


@dataclass(eq=False)
class TorchPredictor:
    """A torch model for inference, with the recipe and the schema that it was built from.

    Attributes:
        model: `forward(dense [B, I], sparse KJT) -> logits [B]`, in eval mode. `apply` may replace it by another one.
        recipe: How the model was trained.
        schema: The features that the model reads.
        changes: Number of changes that have begun plus number of changes that have ended, odd during a change. What is computed
            from the model belongs to one version if the number is even and the same before and after.

    Example:
        >>> import tempfile
        >>> from ml.models.build import build_model
        >>> from ml.recipes.recipe import load_recipe
        >>> recipe, schema = load_recipe("dlrm"), FeatureSchema(("age",), ("user", "item"), (), "f")
        >>> folder = Path(tempfile.mkdtemp())
        >>> TorchPredictor(build_model(recipe, schema), recipe, schema).save(folder)
        >>> TorchPredictor.load(folder).schema.dense
        ('age',)
    """

    model: nn.Module
    recipe: Recipe
    schema: FeatureSchema
    changes: int = field(default=0, init=False)

    def predict(self, batch: Batch, sampled: bool = False) -> npt.NDArray[np.float32]:
        """Compute click probabilities, float32 [B]; see `Predictor.predict`."""
        own = self.recipe.correction
        return predict(self.model, [batch], own if sampled else own._replace(per_row=False))

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the L labels that the model predicts, the main label first; of a two-tower model the main label only."""
        return self.schema.labels[:1] if self.recipe.model.kind == "two_tower" else self.schema.labels

    def predict_labels(self, batch: Batch, sampled: bool = False) -> npt.NDArray[np.float32]:
        """Compute the probabilities of `labels`, float32 [B, L]; arguments as for `predict`."""
        own = self.recipe.correction
        return predict_labels(self.model, batch, own if sampled else own._replace(per_row=False))

    @property
    def steps(self) -> dict[str, int]:
        """The step of each collection of tables by its path in the model, at which the next delta must begin."""
        return steps_of(self.model)

    def apply(self, delta: ModelDelta) -> bool:
        """Apply a delta completely or not at all, while other threads predict; see `ml.artifacts.delta.PendingDelta`."""
        return self._apply(delta, undoable=False) is not None

    def apply_undoable(self, delta: ModelDelta) -> ModelUndo | None:
        """Apply a delta like `apply`. Returns what `revert` needs, or None if the tables already have the changes."""
        return self._apply(delta, undoable=True)

    def revert(self, undo: ModelUndo) -> None:
        """Restore the model from before a delta; see `ml.artifacts.delta.revert_served`."""
        with self._change():
            self.model = revert_served(undo)

    def _apply(self, delta: ModelDelta, undoable: bool) -> ModelUndo | None:
        if (pending := pending_delta(self.model, delta)) is None:
            return None
        give_way()
        with self._change():
            undo = pending.write(undoable)
            self.model = pending.model
        return undo

    @contextmanager
    def _change(self) -> Iterator[None]:
        self.changes += 1
        try:
            yield
        finally:
            self.changes += 1

    def save(self, folder: Path | UPath, beside: Mapping[str, str] | None = None) -> None:
        """Write the model into an existing folder. Writing is not atomic; call it inside `Lake.write`, which is.

        Args:
            folder: An existing folder.
            beside: SHA-256 by name of further files that `state.json` should record.
        """
        quantised = {
            "tables": {path: bags.about() for path, bags in quantised_of(self.model).items()},
            "layers": quantised_layers(self.model),
        }
        metadata = metadata_of(self.recipe, self.schema) | {"quantised": quantised}
        shard = CheckpointShard(weights_of(self.model), None, metadata, collections_by_id(self.model))
        write_state(shard, folder, write_files(shard, folder) | dict(beside or {}))

    @classmethod
    def load(cls, folder: Path | UPath, schema: FeatureSchema | None = None) -> TorchPredictor:
        """Load the model of a trained day, an export or a bundle, without gradients. Optimizer state is not read.

        Args:
            folder: A snapshot, an export or a bundle.
            schema: Schema of the caller's batches, which must equal the model's; not checked by default.

        Raises:
            FileNotFoundError: The folder has no model.
            SnapshotMismatch: The model reads features of another schema, or was written in another format.
            DamagedSnapshot: A file is missing, damaged or does not fit the others; the message names it.
        """
        shard = load_tensors(folder, for_training=False)
        try:
            recipe, own = recipe_of_metadata(shard.metadata), schema_of_metadata(shard.metadata)
            check_same(folder, {"schema": own.plain()}, {"schema": (schema or own).plain()})
            quantised = shard.metadata.get("quantised", {"tables": {}, "layers": []})
            model = _model(recipe, own, quantised, shard.weights)
        except SnapshotMismatch:
            raise
        # torch raises RuntimeError for a layer that exceeds the memory.
        except (ValidationError, ValueError, LookupError, AttributeError, TypeError, RuntimeError) as error:
            raise DamagedSnapshot(
                f"{folder}: its weights do not fit {STATE}; train its day again (an export: export its day again): {error}"
            ) from error
        return cls(model, recipe, own)


def metadata_of(recipe: Recipe, schema: FeatureSchema) -> dict[str, Any]:
    """Describe a model as plain values: recipe, schema and library versions."""
    return {
        "recipe": recipe.model_dump(mode="json", exclude=set(AFTER_TRAINING)),
        "schema": schema.plain(),
        "versions": {name: version(name) for name in ("torch", "torchrec", "fbgemm-gpu-cpu")},
    }


def recipe_of_metadata(metadata: Mapping[str, Any]) -> Recipe:
    """Rebuild the recipe that `metadata_of` described."""
    return Recipe.model_validate(metadata["recipe"])


def schema_of_metadata(metadata: Mapping[str, Any]) -> FeatureSchema:
    """Rebuild the schema that `metadata_of` described."""
    return FeatureSchema.from_plain(metadata["schema"])


def check_same(folder: Path | UPath, saved: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    """Raise `SnapshotMismatch`, naming each key that differs, unless the saved description equals the requested one."""
    if faults := list(differences(saved, asked)):
        way_out = "restore the earlier setting, or train again from the first day"
        raise SnapshotMismatch("\n".join([f"{folder} cannot be trained further or scored with here; {way_out}:", *faults]))


def collections_by_id(model: nn.Module) -> dict[str, list[str]]:
    """Return the tables of each trainable collection that ranks shard by id, by its path in the model."""
    found = {path: bags for path, bags in bags_of(model).items() if bags.sharded_by_id}
    return {path: [config.name for config in bags.embedding_bag_configs()] for path, bags in found.items()}


def quantised_layers(model: nn.Module) -> list[str]:
    """Return the paths of the layers of a model that are quantised."""
    return [path for path, module in model.named_modules() if isinstance(module, Int8Linear)]


def served_model(
    recipe: Recipe,
    schema: FeatureSchema,
    layers: Iterable[str],
    tables: Mapping[str, Callable[[TrainableBags], QuantisedBags]],
    weights: Tensors,
) -> nn.Module:
    """Build a model for inference and fill it.

    Args:
        recipe: How the model was trained.
        schema: The features that it reads.
        layers: Paths of the layers that are quantised.
        tables: By its path, what makes each quantised collection from a trainable one with the same tables.
        weights: The other tensors, as `ml.artifacts.weights.weights_of` names them.

    Raises:
        ValueError: The tensors belong to another model.
    """
    model = build_model(_shrunk(recipe) if tables else recipe, schema).eval()
    for path in layers:
        layer = model.get_submodule(path)
        model.set_submodule(path, Int8Linear(layer.in_features, layer.out_features))  # type: ignore[arg-type]
    for path, quantised in tables.items():
        model.set_submodule(path, quantised(bags_of(model)[path]))
    load_weights(model, weights)
    return model.requires_grad_(False)


def _model(recipe: Recipe, schema: FeatureSchema, quantised: Mapping[str, Any], weights: Tensors) -> nn.Module:
    def restored(path: str, about: Mapping[str, Any]) -> Callable[[TrainableBags], QuantisedBags]:
        return lambda bags: QuantisedBags.restored(bags, about, below(weights, f"{TABLES}{path}/"))

    tables = {path: restored(path, about) for path, about in quantised["tables"].items()}
    return served_model(recipe, schema, quantised["layers"], tables, weights)


def _shrunk(recipe: Recipe) -> Recipe:
    """Return the recipe with tables of few rows. Quantised tables replace them before their rows are read."""

    def least(table: Table) -> Table:
        return table.model_copy(update={"rows": 4}) if isinstance(table, HashedTable | StaticTable) else table

    tables = recipe.tables
    features = {name: least(table) for name, table in tables.features.items()}
    return recipe.model_copy(
        update={"tables": tables.model_copy(update={"default": least(tables.default), "features": features})}
    )
