"""What a model learns from a batch: the losses of its rows, or of the rows that count."""

from __future__ import annotations

import torch
from torch import nn

from ml.datasets.batch import Batch
from ml.distributed.process_group import Ranks
from ml.models.predict import to_sampled_logits
from ml.models.two_tower import TwoTower
from ml.recipes.models import TwoTowerRecipe
from ml.recipes.recipe import Recipe


def per_example_loss(model: nn.Module, batch: Batch, recipe: Recipe, ranks: Ranks | None = None) -> torch.Tensor:
    """Losses, float32: [B], of each row; or, where a model of two towers learns to find, [P], of the clicked rows alone, among
    those of all ranks."""
    chosen = recipe.model
    if isinstance(chosen, TwoTowerRecipe) and chosen.loss == "softmax":
        assert isinstance(model, TwoTower)
        clicked = batch.rows(batch.labels > 0.5)
        return model.sampled_softmax(clicked.dense, clicked.sparse, chosen.uniform_negatives, chosen.logq_correction, ranks)
    return cross_entropy(model(batch.dense, batch.sparse).float(), batch, recipe)


def num_losses(batch: Batch, recipe: Recipe) -> int:
    """How many losses the batch has."""
    chosen = recipe.model
    if isinstance(chosen, TwoTowerRecipe) and chosen.loss == "softmax":
        return int((batch.labels > 0.5).sum())
    return len(batch)


def cross_entropy(logits: torch.Tensor, batch: Batch, recipe: Recipe) -> torch.Tensor:
    """Binary cross-entropy of each row, float32 [B], from its logit [B].

    sampling_correction: the model's logit is taken for the log's, and the loss sees it through
    `to_sampled_logits` (Wang, Zhang and Wang, 2021, arXiv 2110.13048: maximum sampled conditional likelihood).
    """
    labels = batch.labels
    if recipe.label_smoothing:
        labels = labels * (1 - recipe.label_smoothing) + recipe.label_smoothing / 2
    if recipe.sampling_correction:
        logits = to_sampled_logits(logits, batch)
    return nn.functional.binary_cross_entropy_with_logits(logits, labels, reduction="none")
