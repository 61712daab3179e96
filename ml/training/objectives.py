"""What a model learns from a batch: the losses of its rows, or of the rows that count."""

from __future__ import annotations

import torch
from torch import nn

from ml.datasets.batch import Batch
from ml.distributed.process_group import Ranks
from ml.models.two_tower import TwoTower
from ml.recipes.models import TwoTowerRecipe
from ml.recipes.recipe import Recipe


def losses_of(model: nn.Module, batch: Batch, recipe: Recipe, ranks: Ranks | None = None) -> torch.Tensor:
    """Losses, float32: [B], of each row; or, where a model of two towers learns to find, [P], of the clicked rows alone, among
    those of all ranks."""
    chosen = recipe.model
    if isinstance(chosen, TwoTowerRecipe) and chosen.loss == "softmax":
        assert isinstance(model, TwoTower)
        clicked = batch.rows(batch.labels > 0.5)
        return model.sampled_softmax(clicked.dense, clicked.sparse, chosen.uniform_negatives, chosen.correct_frequency, ranks)
    return cross_entropy(model(batch.dense, batch.sparse).float(), batch, recipe)


def terms_of(batch: Batch, recipe: Recipe) -> int:
    """How many losses the batch has."""
    chosen = recipe.model
    if isinstance(chosen, TwoTowerRecipe) and chosen.loss == "softmax":
        return int((batch.labels > 0.5).sum())
    return len(batch)


def cross_entropy(logits: torch.Tensor, batch: Batch, recipe: Recipe) -> torch.Tensor:
    """Binary cross-entropy of each row, float32 [B], from its logit [B].

    correct_sampling: the model's logit is taken for the log's, and the loss sees it `as_sampled` (Wang, Zhang and Wang, 2021,
    arXiv 2110.13048: maximum sampled conditional likelihood).
    """
    labels = batch.labels
    if recipe.label_smoothing:
        labels = labels * (1 - recipe.label_smoothing) + recipe.label_smoothing / 2
    if recipe.correct_sampling:
        logits = as_sampled(logits, batch)
    return nn.functional.binary_cross_entropy_with_logits(logits, labels, reduction="none")


def as_sampled(logits: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Logits [B] of the log before sampling as those of the rows that came in: where an unclicked row x does with probability
    pi(x), the odds of a click among them are those of the log over pi(x)."""
    return logits - batch.sample_rate.log()
