"""An exported model in a folder, loadable alone: its tensors as safetensors, the rest as JSON.

    weights.safetensors    `tables/<path>/<name>` and `dense/<name>`
    model.json             recipe, schema, which tables and layers are held in which format, versions of the libraries

What is loaded gives the very bits of what was saved. Nothing here can be trained on.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import nn
from torchrec.modules.embedding_modules import EmbeddingBagCollectionInterface
from upath import UPath

from ml.embeddings.inference.quantised import QuantisedBags
from ml.embeddings.interface import bags_of, check_fit, dense_buffers, dense_parameters
from ml.models.build import build_model
from ml.models.frequency import BatchFrequency
from ml.models.int8 import Int8Linear
from ml.models.item_bank import ItemBank
from ml.recipes.recipe import Recipe
from ml.recipes.tables import HashedTable, StaticTable, Table
from ml.schema import FeatureSchema

WEIGHTS, MODEL = "weights.safetensors", "model.json"
FORMAT = 1
_TABLES, _DENSE = "tables", "dense"
_APART = (EmbeddingBagCollectionInterface, BatchFrequency, ItemBank)  # tables, and what two towers learn with
Tensors = dict[str, torch.Tensor]


class DamagedExport(ValueError):
    """The parts of an exported model do not belong together, or this code can not read them."""


def save_exported(model: nn.Module, recipe: Recipe, schema: FeatureSchema, folder: Path | UPath) -> None:
    """Write a model whose tables and layers may have been quantised into `folder`, which is there.

    recipe, schema: it was built from. Not atomic: `Lake.write` around it is.
    """
    quantised = _quantised(model)
    described = {
        "format": FORMAT,
        "recipe": recipe.model_dump(mode="json", exclude={"checkpoints", "export"}),
        "schema": asdict(schema),
        "tables": {path: bags.about() for path, bags in quantised.items()},
        "layers": [path for path, module in model.named_modules() if isinstance(module, Int8Linear)],
        "versions": {name: version(name) for name in ("torch", "torchrec", "fbgemm-gpu-cpu")},
    }
    (folder / WEIGHTS).write_bytes(save({name: tensor.contiguous() for name, tensor in _tensors(model).items()}))
    (folder / MODEL).write_text(json.dumps(described, indent=1, sort_keys=True))


def load_exported(folder: Path | UPath) -> nn.Module:
    """The model that was saved in `folder`, in eval mode, without gradients: `forward(dense [B, I], sparse KJT) -> logits [B]`.

    Raises `DamagedExport`, `FileNotFoundError`.
    """
    about, weights = (folder / MODEL).read_bytes(), (folder / WEIGHTS).read_bytes()
    try:
        return _restored(json.loads(about), load(weights)).requires_grad_(False)
    # RuntimeError is torch's of a layer that no memory holds.
    except (SafetensorError, ValidationError, ValueError, LookupError, AttributeError, TypeError, RuntimeError) as error:
        raise DamagedExport(f"{folder}: {MODEL} and {WEIGHTS} make no model here; export its day again: {error}") from error


def _restored(described: dict[str, Any], tensors: Tensors) -> nn.Module:
    if described["format"] != FORMAT:
        raise ValueError(f"format {described['format']}, this code reads {FORMAT}")
    model = build_model(_shrunk(Recipe.model_validate(described["recipe"])), _schema(described["schema"])).eval()
    for path in described["layers"]:
        layer = model.get_submodule(path)
        model.set_submodule(path, Int8Linear(layer.in_features, layer.out_features))  # type: ignore[arg-type]
    for path, about in described["tables"].items():
        model.set_submodule(path, QuantisedBags.restored(bags_of(model)[path], about, _below(tensors, f"{_TABLES}/{path}/")))
    for path, bags in bags_of(model).items():
        bags.restore(_below(tensors, f"{_TABLES}/{path}/"), None)
    dense, saved = _dense(model), _below(tensors, f"{_DENSE}/")
    check_fit(dense, saved)
    for name, tensor in dense.items():
        tensor.copy_(saved[name])
    return model


def bytes_of(model: nn.Module) -> int:
    """Of all that predictions need of a model, quantised or as trained."""
    return sum(tensor.nbytes for tensor in _tensors(model).values())


def digest(folder: Path | UPath) -> str:
    """SHA-256 over an exported model's files."""
    sha = hashlib.sha256()
    for name in (WEIGHTS, MODEL):
        sha.update(hashlib.sha256((folder / name).read_bytes()).digest())
    return sha.hexdigest()


def _tensors(model: nn.Module) -> Tensors:
    tables = {path: bags.weights() for path, bags in bags_of(model).items()}
    tables |= {path: bags.tensors() for path, bags in _quantised(model).items()}
    named = {f"{_TABLES}/{path}/{name}": tensor for path, own in tables.items() for name, tensor in own.items()}
    return named | {f"{_DENSE}/{name}": tensor for name, tensor in _dense(model).items()}


def _quantised(model: nn.Module) -> dict[str, QuantisedBags]:
    return {path: module for path, module in model.named_modules() if isinstance(module, QuantisedBags)}


def _dense(model: nn.Module) -> Tensors:
    apart = tuple(f"{path}." for path, module in model.named_modules() if isinstance(module, _APART))
    held = {name: tensor.data for name, tensor in dense_parameters(model)}
    return held | {name: buffer for name, buffer in dense_buffers(model) if not name.startswith(apart)}


def _below(tensors: Mapping[str, torch.Tensor], prefix: str) -> Tensors:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _schema(names: Mapping[str, Any]) -> FeatureSchema:
    return FeatureSchema(*(tuple(names[k]) for k in ("dense", "single", "multi")), fingerprint=names["fingerprint"])


def _shrunk(recipe: Recipe) -> Recipe:
    """The same but for the rows of tables that are about to be replaced, which may be many."""

    def least(table: Table) -> Table:
        return table.model_copy(update={"rows": 4}) if isinstance(table, HashedTable | StaticTable) else table

    tables = recipe.tables
    features = {name: least(table) for name, table in tables.features.items()}
    return recipe.model_copy(
        update={"tables": tables.model_copy(update={"default": least(tables.default), "features": features})}
    )
