"""Losses of a batch: one for each row, or one for each clicked row."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from ml.datasets.batch import Batch
from ml.distributed.process_group import Ranks
from ml.models.mlp import main_logits
from ml.models.predict import logits_of_labels, to_sampled_logits
from ml.models.two_tower import TwoTower
from ml.recipes.models import TwoTowerRecipe
from ml.recipes.recipe import Recipe


def per_example_loss(
    model: nn.Module, batch: Batch, recipe: Recipe, ranks: Ranks | None = None, further: Sequence[str] = ()
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Compute the losses of a batch, and the logits they come from.

    The loss of a row is the loss of its main label plus the losses of its further labels times the recipe's `loss_weights`, all
    multiplied by the row's sample weight.

    Args:
        model: A model in training mode.
        batch: B rows, P of them clicked.
        recipe: Chooses the loss.
        ranks: The processes whose items are sampled negatives for each other.
        further: Names of the further labels of the batch.

    Returns:
        Losses, float32 [B], and logits of the main label, float32 [B], comparable with the labels of the batch. For a two-tower
        model with `loss: softmax`, the losses of the clicked rows, float32 [P], and None.
    """
    chosen = recipe.model
    if isinstance(chosen, TwoTowerRecipe) and chosen.loss == "softmax":
        assert isinstance(model, TwoTower)
        clicked = batch.rows(batch.labels > 0.5)
        losses = model.sampled_softmax(clicked.dense, clicked.sparse, chosen.uniform_negatives, chosen.logq_correction, ranks)
        return _weighted(losses, clicked), None
    every = logits_of_labels(model, batch).float()  # [B, L]
    losses, logits = _main_losses(main_logits(every), batch, recipe)
    for number, name in enumerate(further[: every.shape[1] - 1]):
        losses = losses + (recipe.loss_weights or {}).get(name, 1.0) * _further_losses(
            every[:, number + 1], number, batch, recipe
        )
    return _weighted(losses, batch), logits


def _weighted(losses: torch.Tensor, batch: Batch) -> torch.Tensor:
    return losses if batch.weight is None else losses * batch.weight


def _main_losses(logits: torch.Tensor, batch: Batch, recipe: Recipe) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the losses of the main label, and its logits as they compare with the labels of the batch, float32 [B] each."""
    if recipe.correction_kind == "weights":
        losses = cross_entropy(logits, batch.labels, recipe.label_smoothing)
        return losses / torch.where(batch.labels > 0.5, 1.0, batch.sample_rate), to_sampled_logits(logits, batch)
    if recipe.correction_kind == "loss":
        logits = to_sampled_logits(logits, batch)
    losses = cross_entropy(logits, batch.labels, recipe.label_smoothing)
    if recipe.fake_negative_weights:
        losses = losses * fake_negative_weights(logits.detach(), batch.labels)
    return losses, logits


def _further_losses(logits: torch.Tensor, number: int, batch: Batch, recipe: Recipe) -> torch.Tensor:
    """Return the losses of a further label, float32 [B].

    Negative sampling keeps a row by its main label, so positives of a further label are sampled too. Weighing rows by the
    inverse of their rate corrects for that, whereas `logit - log(sample_rate)` does not.
    """
    assert batch.further is not None
    labels = batch.further[:, number]
    losses = cross_entropy(logits, labels, recipe.label_smoothing)
    if recipe.fake_negative_weights:
        losses = losses * fake_negative_weights(logits.detach(), labels)
    if recipe.correction_kind == "none":
        return losses
    return losses / torch.where(batch.labels > 0.5, 1.0, batch.sample_rate)


def fake_negative_weights(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Weigh rows that were trained on before their clicks were known, and again as clicked rows.

    Every row is trained on once as unclicked, so a clicked row is seen with both labels. With p the predicted final
    probability, the share of clicked rows among those seen is p / (1 + p). The weights 1 + p of clicked rows and
    (1 - p)(1 + p) of unclicked ones turn the expected loss into the loss of the final labels (Ktena et al., 2019, arXiv
    1907.06558, section 3.2).

    Args:
        logits: Logits of the final labels, float32 [B], without gradient.
        labels: The labels that are known, float32 [B].

    Returns:
        float32 [B].
    """
    p = torch.sigmoid(logits)
    return torch.where(labels > 0.5, 1 + p, (1 - p) * (1 + p))


def num_losses(batch: Batch, recipe: Recipe) -> int:
    """Count the losses of a batch: one for each row, or one for each clicked row with `loss: softmax`."""
    chosen = recipe.model
    if isinstance(chosen, TwoTowerRecipe) and chosen.loss == "softmax":
        return int((batch.labels > 0.5).sum())
    return len(batch)


def cross_entropy(logits: torch.Tensor, labels: torch.Tensor, label_smoothing: float = 0.0) -> torch.Tensor:
    """Compute the binary cross-entropy of each row.

    Args:
        logits: float32 [B].
        labels: float32 [B], 0 or 1.
        label_smoothing: Fraction of the distance to 0.5 by which labels are moved.

    Returns:
        float32 [B].
    """
    if label_smoothing:
        labels = labels * (1 - label_smoothing) + label_smoothing / 2
    return nn.functional.binary_cross_entropy_with_logits(logits, labels, reduction="none")
