"""Negative sampling: all clicked rows of a batch are trained on, and some of the unclicked ones.

Monolith samples negatives at a constant rate (Liu et al., 2022, section 2.3). Wang, Zhang and Wang (2021, arXiv 2110.13048)
show that rates in proportion to the predicted probability lose the least information. `sample_rate` of each kept row records
the probability that an unclicked row like it is kept, with which `Recipe.correction_kind` corrects the log odds.
"""

from __future__ import annotations

import torch
from torch import nn

from ml.datasets.batch import Batch
from ml.distributed.process_group import Ranks
from ml.hashing import derive_seed
from ml.recipes.sampling import NegativeSampling
from ml.training.state import TrainState

_ROUNDS = 24  # halvings of the interval in which the factor of the rates is searched


def sample_negatives(state: TrainState, batch: Batch, sampling: NegativeSampling, ranks: Ranks | None = None) -> Batch:
    """Keep the clicked rows of a batch and a sample of the unclicked ones.

    The draw depends only on the recipe's seed, the rank and the number of steps that the model was trained for.

    Args:
        state: The state that will be trained on the batch. With `by: score`, its model predicts the rows first, in eval mode.
        batch: B rows with labels.
        sampling: How rows are sampled.
        ranks: The processes that train together. Each of them must make the same call.

    Returns:
        The kept rows, in their order. Their `sample_rate` is multiplied by the probability of the draw.
    """
    rates = torch.full((len(batch),), sampling.keep)
    if sampling.by == "score":
        rates = keep_rates(_predict(state.model, batch), batch.labels, sampling)
    rank = (ranks.rank,) if ranks is not None and ranks.rank else ()
    draw = torch.Generator().manual_seed(derive_seed(state.recipe.seed, "negatives", state.steps, *rank))
    kept = (torch.rand(len(batch), generator=draw) < rates) | (batch.labels > 0.5)
    rows = batch.rows(kept)
    return rows.with_sample_rate(rows.sample_rate * rates[kept])


def keep_rates(probabilities: torch.Tensor, labels: torch.Tensor, sampling: NegativeSampling) -> torch.Tensor:
    """Return the probability with which each row is kept if it is unclicked.

    The rates are `clip(factor * probability, floor, 1)`. The factor is chosen so that their mean over the unclicked rows
    is `keep`.

    Args:
        probabilities: Predicted click probabilities, float32 [B].
        labels: float32 [B], 0 or 1.
        sampling: The floor and the mean of the rates.

    Returns:
        float32 [B].

    Example:
        >>> sampling = NegativeSampling(by="score", keep=0.25, floor=0.1)
        >>> keep_rates(torch.tensor([0.01, 0.02, 0.03]), torch.zeros(3), sampling)
        tensor([0.1250, 0.2500, 0.3750])
    """
    unclicked = probabilities[labels < 0.5]
    if not len(unclicked):
        return torch.full_like(probabilities, sampling.keep)
    low, high = 0.0, 1.0 / max(float(unclicked.min()), 1e-12)  # all rates are 1 with the largest factor
    for _ in range(_ROUNDS):
        factor = (low * high) ** 0.5 if low else high / 1024
        if float((unclicked * factor).clamp(sampling.floor, 1.0).mean()) < sampling.keep:
            low = factor
        else:
            high = factor
    return (probabilities * high).clamp(sampling.floor, 1.0)


@torch.no_grad()
def _predict(model: nn.Module, batch: Batch) -> torch.Tensor:
    was_training = model.training
    model.eval()
    try:
        return torch.sigmoid(model(batch.dense, batch.sparse).float())
    finally:
        model.train(was_training)
