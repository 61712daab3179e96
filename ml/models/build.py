"""From a recipe and the names of the features to a model. One entry per kind of model; no model reads a recipe itself."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from ml.features.schema import FeatureSchema
from ml.models.deepfm import DeepFM
from ml.models.dlrm import DLRM
from ml.models.tables import build_bags
from ml.training.recipe import Recipe


def _dlrm(recipe: Recipe, schema: FeatureSchema) -> nn.Module:
    sizes = recipe.model
    return DLRM(build_bags(recipe, schema), len(schema.dense), sizes.bottom, sizes.top, sizes.linear_shortcut)


def _deepfm(recipe: Recipe, schema: FeatureSchema) -> nn.Module:
    return DeepFM(build_bags(recipe, schema), len(schema.dense), recipe.model.top)


MODELS: dict[str, Callable[[Recipe, FeatureSchema], nn.Module]] = {"dlrm": _dlrm, "deepfm": _deepfm}


def build_model(recipe: Recipe, schema: FeatureSchema) -> nn.Module:
    """A freshly initialised model, `forward(dense [B, I], sparse KJT) -> logits [B]`; the same for the same arguments."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        return MODELS[recipe.model.kind](recipe, schema)
