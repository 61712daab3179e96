"""From a recipe and the names of the features to a model. One entry per kind of model; no model reads a recipe itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import nn

from ml.models.dcn import DCNv2
from ml.models.deepfm import DeepFM
from ml.models.dlrm import DLRM
from ml.models.tables import build_bags, build_wide
from ml.models.two_tower import TwoTower
from ml.models.wide_deep import WideDeep
from ml.recipes.models import DcnRecipe, DeepFMRecipe, DlrmRecipe, TwoTowerRecipe, WideDeepRecipe
from ml.recipes.recipe import Recipe
from ml.schema import FeatureSchema


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


def _two_tower(recipe: Recipe, chosen: TwoTowerRecipe, schema: FeatureSchema) -> nn.Module:
    """Raises `ValueError` for a feature that is not there, or has many ids an example where it may not."""
    known = {*schema.dense, *schema.sparse}
    if strange := {*chosen.user, *chosen.item} - known:
        raise ValueError(f"recipe: model.user, model.item: {sorted(strange)} not among the features {sorted(known)}")
    if many := set(chosen.item) & set(schema.multi):
        raise ValueError(f"recipe: model.item: {sorted(many)} have any number of ids an example; an item's have one")
    if chosen.item_id not in schema.single:
        raise ValueError(f"recipe: model.item_id: {chosen.item_id!r} is no sparse feature")
    used = [name for name in schema.sparse if name in (*chosen.user, *chosen.item)]
    return TwoTower(
        build_bags(recipe, schema, used),
        schema.dense,
        chosen.user,
        chosen.item,
        chosen.item_id,
        chosen.hidden,
        chosen.out,
        chosen.temperature,
        chosen.dropout,
    )


MODELS: dict[type, Callable[..., nn.Module]] = {
    DlrmRecipe: _dlrm,
    WideDeepRecipe: _wide_deep,
    DeepFMRecipe: _deepfm,
    DcnRecipe: _dcn,
    TwoTowerRecipe: _two_tower,
}


def build_model(recipe: Recipe, schema: FeatureSchema) -> nn.Module:
    """A freshly initialised model, `forward(dense [B, I], sparse KJT) -> logits [B]`; the same for the same arguments.

    Raises `ValueError` where the recipe speaks of features that are not there.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        return MODELS[type(recipe.model)](recipe, recipe.model, _seen(recipe, schema))


def _seen(recipe: Recipe, schema: FeatureSchema) -> FeatureSchema:
    """What the model looks at of a batch's features."""
    for key, named in (("exclude_features", recipe.exclude_features), ("tables.features", recipe.tables.features)):
        if strange := set(named) - set(schema.sparse):
            raise ValueError(f"recipe: {key}: {sorted(strange)} not among the sparse features {list(schema.sparse)}")
    single, multi = (tuple(n for n in names if n not in recipe.exclude_features) for names in (schema.single, schema.multi))
    if not single and not multi:
        raise ValueError(f"recipe: exclude_features: nothing is left of the sparse features {list(schema.sparse)}")
    return replace(schema, single=single, multi=multi)
