"""Construction of a model from a recipe and the names of its features.

Each kind of model has one function in this module; models themselves do not read recipes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import nn

from ml.models.dcn import DCNv2
from ml.models.deepfm import DeepFM
from ml.models.dlrm import DLRM
from ml.models.tables import build_bags, build_wide
from ml.models.two_tower import TowerFeatures, TwoTower
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
        labels=len(schema.labels),
    )


def _wide_deep(recipe: Recipe, chosen: WideDeepRecipe, schema: FeatureSchema) -> nn.Module:
    wide = build_wide(recipe, chosen, schema)
    bags, labels = build_bags(recipe, schema), len(schema.labels)
    return WideDeep(bags, wide, chosen.crosses, len(schema.dense), chosen.deep, chosen.dropout, labels)


def _deepfm(recipe: Recipe, chosen: DeepFMRecipe, schema: FeatureSchema) -> nn.Module:
    return DeepFM(build_bags(recipe, schema), len(schema.dense), chosen.deep, chosen.dropout, len(schema.labels))


def _dcn(recipe: Recipe, chosen: DcnRecipe, schema: FeatureSchema) -> nn.Module:
    return DCNv2(
        build_bags(recipe, schema),
        len(schema.dense),
        chosen.deep,
        cross_layers=chosen.cross_layers,
        low_rank=chosen.low_rank,
        structure=chosen.structure,
        dropout=chosen.dropout,
        labels=len(schema.labels),
    )


def _two_tower(recipe: Recipe, chosen: TwoTowerRecipe, schema: FeatureSchema) -> nn.Module:
    """Raises `ValueError` for a feature that does not exist, or that has several ids per row where one is required."""
    known = {*schema.dense, *schema.sparse}
    if unknown := {*chosen.user, *chosen.item} - known:
        raise ValueError(f"recipe: model.user, model.item: {sorted(unknown)} not among the features {sorted(known)}")
    if many := set(chosen.item) & set(schema.multi):
        raise ValueError(f"recipe: model.item: {sorted(many)} have any number of ids per row; features of an item have one")
    if chosen.item_id not in schema.single:
        raise ValueError(f"recipe: model.item_id: {chosen.item_id!r} is not a single-valued sparse feature")
    used = [name for name in schema.sparse if name in (*chosen.user, *chosen.item)]
    return TwoTower(
        build_bags(recipe, schema, used),
        schema.dense,
        TowerFeatures(chosen.user, chosen.item, chosen.item_id),
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
    """Build an untrained model.

    Args:
        recipe: Model, sizes and tables. Its seed fixes the initial weights.
        schema: The features of a batch. The model ignores `recipe.exclude_features`.

    Returns:
        A model with `forward(dense [B, I], sparse KJT) -> logits [B]` of the main label and `logits(...) -> [B, L]` of all
        labels of the schema; a two-tower model has the main label only. Equal arguments give equal bits.

    Raises:
        ValueError: The recipe names features that the schema does not have.

    Example:
        >>> from ml.recipes.recipe import load_recipe
        >>> schema = FeatureSchema(dense=("age",), single=("user", "item"), multi=(), fingerprint="f")
        >>> type(build_model(load_recipe("deepfm"), schema)).__name__
        'DeepFM'
    """
    if unknown := set(recipe.loss_weights or {}) - set(schema.labels[1:]):
        known = list(schema.labels[1:])
        raise ValueError(f"recipe: loss_weights: {sorted(unknown)} not among the further labels {known} of the dataset")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        return MODELS[type(recipe.model)](recipe, recipe.model, _visible(recipe, schema))


def _visible(recipe: Recipe, schema: FeatureSchema) -> FeatureSchema:
    """Return the schema without the features that the recipe excludes."""
    for key, named in (("exclude_features", recipe.exclude_features), ("tables.features", recipe.tables.features)):
        if unknown := set(named) - set(schema.sparse):
            raise ValueError(f"recipe: {key}: {sorted(unknown)} not among the sparse features {list(schema.sparse)}")
    single, multi = (tuple(n for n in names if n not in recipe.exclude_features) for names in (schema.single, schema.multi))
    if not single and not multi:
        raise ValueError(f"recipe: exclude_features: excludes all of the sparse features {list(schema.sparse)}")
    return replace(schema, single=single, multi=multi)
