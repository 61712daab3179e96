"""From a recipe and the names of the features to a model. One entry per kind of model; no model reads a recipe itself."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from ml.features.schema import FeatureSchema
from ml.models.dcn import DCNv2
from ml.models.deepfm import DeepFM
from ml.models.dlrm import DLRM
from ml.models.tables import build_bags, build_wide
from ml.models.wide_deep import WideDeep
from ml.recipes.models import DcnRecipe, DeepFMRecipe, DlrmRecipe, WideDeepRecipe
from ml.recipes.recipe import Recipe


def _dlrm(recipe: Recipe, chosen: DlrmRecipe, schema: FeatureSchema) -> nn.Module:
    return DLRM(
        build_bags(recipe, schema),
        len(schema.dense),
        chosen.bottom,
        chosen.top,
        interaction=chosen.interaction,
        linear_shortcut=chosen.linear_shortcut,
        dropout=chosen.dropout,
    )


def _wide_deep(recipe: Recipe, chosen: WideDeepRecipe, schema: FeatureSchema) -> nn.Module:
    wide = build_wide(recipe, chosen, schema)
    return WideDeep(build_bags(recipe, schema), wide, chosen.crosses, len(schema.dense), chosen.deep, chosen.dropout)


def _deepfm(recipe: Recipe, chosen: DeepFMRecipe, schema: FeatureSchema) -> nn.Module:
    return DeepFM(build_bags(recipe, schema), len(schema.dense), chosen.deep, chosen.dropout)


def _dcn(recipe: Recipe, chosen: DcnRecipe, schema: FeatureSchema) -> nn.Module:
    return DCNv2(
        build_bags(recipe, schema),
        len(schema.dense),
        chosen.deep,
        cross_layers=chosen.cross_layers,
        low_rank=chosen.low_rank,
        structure=chosen.structure,
        dropout=chosen.dropout,
    )


MODELS: dict[type, Callable[..., nn.Module]] = {
    DlrmRecipe: _dlrm,
    WideDeepRecipe: _wide_deep,
    DeepFMRecipe: _deepfm,
    DcnRecipe: _dcn,
}


def build_model(recipe: Recipe, schema: FeatureSchema) -> nn.Module:
    """A freshly initialised model, `forward(dense [B, I], sparse KJT) -> logits [B]`; the same for the same arguments."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        return MODELS[type(recipe.model)](recipe, recipe.model, schema)
