"""Sampling of unclicked rows, its record in `sample_rate`, and the corrections of the log odds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from ml.artifacts.predictor import TorchPredictor
from ml.datasets.batch import Batch
from ml.metrics import summary
from ml.models.predict import predict
from ml.recipes.recipe import Recipe
from ml.recipes.sampling import Correction, NegativeSampling
from ml.schema import FeatureSchema
from ml.training.negative_sampling import keep_rates, sample_negatives
from ml.training.passes import train_pass
from ml.training.state import new_state
from tests.helpers.training_days import make_batches, small_recipe
from tests.helpers.training_states import SCHEMA, begun, same_weights

WHOLE = FeatureSchema(("x",), ("a",), (), "f")


def unlike_rows(rows: int, seed: int) -> Batch:
    """Rows of which 2 % are clicked: 1 % of those with x = 0, and 3 % of those with x = 1."""
    rng = np.random.default_rng(seed)
    x = (rng.random(rows) < 0.5).astype(np.float32)
    sparse = KeyedJaggedTensor(["a"], torch.zeros(rows, dtype=torch.int64), lengths=torch.ones(rows, dtype=torch.int32))
    labels = (rng.random(rows) < 0.01 + 0.02 * x).astype(np.float32)
    return Batch(
        torch.from_numpy(x).unsqueeze(1),
        sparse,
        torch.from_numpy(labels),
        torch.ones(rows),
        torch.zeros(rows, dtype=torch.int64),
    )


def learned(recipe: Recipe) -> tuple[dict[str, Any], list[float]]:
    """The metrics on all rows of a model that was trained on a sample, and its predictions for both kinds of rows."""
    state = new_state(recipe, WHOLE)
    state.begin_pass()
    train_pass(state, [unlike_rows(4096, seed) for seed in range(150)], total_steps=150)
    unseen = unlike_rows(200_000, seed=1000)
    served = TorchPredictor(state.model, recipe, WHOLE).predict(unseen)
    kinds = [float(served[unseen.dense[:, 0].numpy() == kind].mean()) for kind in (0, 1)]
    return summary(unseen.labels.numpy(), served), kinds


@pytest.mark.parametrize("by", ["constant", "score"])
def test_clicked_rows_are_kept_and_the_mean_of_the_rates_is_the_share(by: str) -> None:
    sampling = NegativeSampling.model_validate({"by": by, "keep": 0.2, "floor": 0.05})
    state, seen, kept, clicks = begun(), 0, 0, 0
    for number in range(40):
        batch = next(iter(make_batches(SCHEMA, 1, 512, seed=number)))
        state.steps = number
        sample = sample_negatives(state, batch, sampling)
        assert sample.labels.sum() == batch.labels.sum()
        assert float(sample.sample_rate.min()) >= 0.05 and float(sample.sample_rate.max()) <= 1
        clicks += int(batch.labels.sum())
        seen, kept = seen + len(batch), kept + len(sample)
    error = 4 * (0.2 * 0.8 / (seen - clicks)) ** 0.5
    assert (kept - clicks) / (seen - clicks) == pytest.approx(0.2, abs=error)


def test_rates_multiply_those_of_the_log() -> None:
    batch = unlike_rows(256, 0)
    sampled = Batch(batch.dense, batch.sparse, batch.labels, torch.full((256,), 0.5), batch.event_time)
    state = new_state(small_recipe(tables={"features": {}}), WHOLE)
    kept = sample_negatives(state, sampled, NegativeSampling(keep=0.3))
    assert torch.equal(kept.sample_rate, torch.full((len(kept),), 0.15))


def test_rates_by_score_grow_with_the_score_between_floor_and_one() -> None:
    scores, sampling = torch.rand(5000, generator=torch.Generator().manual_seed(0)) ** 8, NegativeSampling(by="score", keep=0.1)
    rates = keep_rates(scores, torch.zeros(5000), sampling)
    assert float(rates.mean()) == pytest.approx(0.1, rel=1e-3)
    assert float(rates.min()) == pytest.approx(sampling.floor) and float(rates.max()) <= 1
    order = scores.argsort()
    assert bool((rates[order].diff() >= 0).all())


@pytest.mark.parametrize("scores", [torch.zeros(8), torch.ones(8), torch.empty(0)], ids=["zeros", "ones", "none"])
def test_scores_without_differences_have_the_mean_rate(scores: torch.Tensor) -> None:
    sampling = NegativeSampling(by="score", keep=0.25, floor=0.25)
    assert keep_rates(scores, torch.zeros(len(scores)), sampling) == pytest.approx([0.25] * len(scores), rel=1e-3)


@pytest.mark.parametrize("sampling", [{"keep": 0.3}, {"by": "score", "keep": 0.3}], ids=["constant", "score"])
def test_the_draw_depends_on_seed_and_step_alone(sampling: dict[str, Any]) -> None:
    """A pass that is interrupted after 5 steps ends with the weights of an uninterrupted one."""
    batches = list(make_batches(SCHEMA, 10))
    whole, parts, other = (
        begun(negative_sampling=sampling),
        begun(negative_sampling=sampling),
        begun(negative_sampling=sampling, seed=1),
    )
    train_pass(whole, batches, total_steps=10)
    train_pass(other, batches, total_steps=10)
    train_pass(parts, batches[:5], total_steps=10)
    torch.rand(100)  # other users of the global generator have no effect
    train_pass(parts, batches[5:], total_steps=10)
    assert same_weights(whole, parts) and not same_weights(whole, other)
    assert whole.running is not None and whole.running.rows == 320 and whole.running.num_losses < 320


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sampling", "correction"),
    [
        ({"keep": 0.1}, "loss"),
        ({"keep": 0.1}, "weights"),
        ({"keep": 0.1}, "serving"),
        ({"by": "score", "keep": 0.1, "floor": 0.03}, "loss"),
        ({"by": "score", "keep": 0.1, "floor": 0.03}, "weights"),
    ],
    ids=str,
)
def test_corrected_models_predict_the_clicks_of_all_rows(sampling: dict[str, Any], correction: str) -> None:
    recipe = small_recipe(
        negative_sampling=sampling,
        sampling_correction=correction,
        dense_optimizer={"lr": 0.03},
        tables={"features": {}},
        schedule={"decay_start": 0.5, "decay_to": 0.01},
    )
    found, kinds = learned(recipe)
    assert found["calibration"] == pytest.approx(1, abs=0.12)
    assert kinds == pytest.approx([0.01, 0.03], rel=0.2)


@pytest.mark.slow
def test_without_correction_predictions_are_too_high_and_the_auc_does_not_show_it() -> None:
    naive, _ = learned(small_recipe(negative_sampling={"keep": 0.1}, sampling_correction="none", tables={"features": {}}))
    corrected, _ = learned(small_recipe(negative_sampling={"keep": 0.1}, tables={"features": {}}))
    assert naive["calibration"] > 5
    assert naive["auc"] == pytest.approx(corrected["auc"], abs=0.01)


def test_the_correction_is_on_by_default_once_rows_are_sampled() -> None:
    assert small_recipe().correction == Correction()
    assert small_recipe(negative_sampling={"keep": 0.1}).correction == Correction(per_row=True)
    assert small_recipe(negative_sampling={"keep": 0.1}, sampling_correction=False).correction == Correction()
    served = small_recipe(negative_sampling={"keep": 0.1}, sampling_correction="serving").correction
    assert served == Correction(shift=pytest.approx(np.log(0.1)))


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"negative_sampling": {"by": "score", "keep": 0.1, "floor": 0.2}}, "floor"),
        ({"negative_sampling": {"keep": 0.0}}, "keep"),
        ({"sampling_correction": "serving"}, "serving"),
        ({"sampling_correction": "serving", "negative_sampling": {"by": "score", "keep": 0.1}}, "serving"),
    ],
    ids=str,
)
def test_settings_that_do_not_fit_are_refused(keys: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        Recipe.model_validate(small_recipe().model_dump(mode="json") | keys)


def test_predictions_of_a_model_that_is_corrected_at_serving_are_shifted() -> None:
    (batch,), state = make_batches(SCHEMA, 1), begun()
    plain = torch.from_numpy(predict(state.model, [batch])).logit()
    shifted = torch.from_numpy(predict(state.model, [batch], Correction(shift=-2.0))).logit()
    torch.testing.assert_close(shifted, plain - 2.0, rtol=1e-3, atol=1e-3)
