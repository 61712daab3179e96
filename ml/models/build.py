"""From a recipe and the names of the features to a model. One entry per kind of model; no model reads a recipe itself."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torchrec.modules.embedding_configs import EmbeddingBagConfig, PoolingType

from ml.embeddings.hashed import HashedEmbeddingBags
from ml.features.schema import FeatureSchema
from ml.models.dlrm import DLRM
from ml.training.recipe import Recipe


def build_bags(recipe: Recipe, schema: FeatureSchema) -> HashedEmbeddingBags:
    """One table per sparse feature, named as it. Raises `ValueError` where the recipe sizes a feature that is not there."""
    if unknown := set(recipe.tables.features) - set(schema.sparse):
        raise ValueError(f"recipe: tables.features: {sorted(unknown)} not among the sparse features {list(schema.sparse)}")
    tables = [
        EmbeddingBagConfig(
            name=feature,
            embedding_dim=recipe.model.embedding_dim,
            num_embeddings=recipe.tables.rows_of(feature),
            feature_names=[feature],
            pooling=PoolingType.MEAN,
        )
        for feature in schema.sparse
    ]
    optimizer = recipe.table_optimizer
    return HashedEmbeddingBags(
        tables,
        init_scale=recipe.tables.init_scale,
        lr=optimizer.lr,
        eps=optimizer.eps,
        # A row's gradient in a mean over B examples is one example's over B.
        initial_accumulator=optimizer.initial_accumulator / recipe.batch_size**2,
        seed=recipe.seed,
    )


def _dlrm(recipe: Recipe, schema: FeatureSchema) -> nn.Module:
    sizes = recipe.model
    return DLRM(build_bags(recipe, schema), len(schema.dense), sizes.bottom, sizes.top, sizes.linear_shortcut)


MODELS: dict[str, Callable[[Recipe, FeatureSchema], nn.Module]] = {"dlrm": _dlrm}


def build_model(recipe: Recipe, schema: FeatureSchema) -> nn.Module:
    """A freshly initialised model, `forward(dense [B, I], sparse KJT) -> logits [B]`; the same for the same arguments."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        return MODELS[recipe.model.kind](recipe, schema)
