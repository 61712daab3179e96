"""Losses of smoothed labels and of down-sampled rows."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from ml.datasets.batch import Batch
from ml.metrics import summary
from ml.models.predict import predict
from ml.recipes.recipe import EarlyStop
from ml.schema import FeatureSchema
from ml.training.early_stop import EarlyStopping
from ml.training.objectives import cross_entropy
from ml.training.passes import train_pass
from ml.training.state import new_state
from tests.helpers.training_days import make_batches, small_recipe
from tests.helpers.training_states import SCHEMA


def test_smoothed_labels_are_learned_as_such() -> None:
    batch = next(iter(make_batches(SCHEMA, 1)))
    logits = torch.linspace(-3, 3, len(batch))
    plain, smooth = (cross_entropy(logits, batch.labels, share) for share in (0.0, 0.2))
    opposite = cross_entropy(logits, 1 - batch.labels)
    torch.testing.assert_close(smooth, 0.9 * plain + 0.1 * opposite)


@pytest.mark.slow
def test_sampled_rows_teach_the_odds_of_the_log() -> None:
    """1 % of the rows are clicked; of the others, one in 50 or one in 10 is kept. The logits recover the 1 %."""
    rng, rows = np.random.default_rng(0), 400_000
    labels, often = rng.random(rows) < 0.01, rng.random(rows) < 0.5
    rate = np.where(often, 0.1, 0.02)
    kept = labels | (rng.random(rows) < rate)
    schema = FeatureSchema(("x",), ("a",), (), "f")
    sparse = KeyedJaggedTensor(
        ["a"], torch.zeros(kept.sum(), dtype=torch.int64), lengths=torch.ones(kept.sum(), dtype=torch.int32)
    )
    whole = Batch(
        dense=torch.from_numpy(often[kept].astype(np.float32)).unsqueeze(1),
        sparse=sparse,
        labels=torch.from_numpy(labels[kept].astype(np.float32)),
        sample_rate=torch.from_numpy(rate[kept].astype(np.float32)),
        event_time=torch.zeros(int(kept.sum()), dtype=torch.int64),
    )
    seen = {}
    for corrected in (True, False):
        recipe = small_recipe(sampling_correction=corrected, dense_optimizer={"lr": 0.02}, tables={"features": {}})
        state = new_state(recipe, schema)
        state.begin_pass()
        train_pass(state, [whole] * 300, total_steps=300)
        clicked, known = predict(state.model, [whole]), whole.labels.numpy()
        as_learned = summary(known, predict(state.model, [whole], recipe.correction))
        assert as_learned["calibration"] == pytest.approx(1, abs=0.05)
        rule = EarlyStop(metric="log_loss", target=(as_learned["log_loss"] or 0) + 0.01, every=0.5)
        assert EarlyStopping(rule, lambda: [whole], 600).reached(state), "the target is evaluated the same way"
        seen[corrected] = [float(clicked[whole.dense[:, 0].numpy() == kind].mean()) for kind in (0, 1)]
    assert seen[True] == pytest.approx([0.01, 0.01], rel=0.1)
    assert seen[False][0] > 0.2 and 0.05 < seen[False][1] < 0.15, "without correction it learns the odds among the kept rows"
