"""Early stopping ends a pass at the same step, interrupted or not."""

from __future__ import annotations

import numpy as np
import pytest

from ml.metrics import summary
from ml.models.predict import predict
from ml.recipes.recipe import EarlyStop
from ml.training.early_stop import EarlyStopping
from ml.training.passes import train_pass
from tests.helpers.training_days import make_batches
from tests.helpers.training_states import SCHEMA, begun, same_weights


@pytest.mark.parametrize(
    ("metric", "target", "stops"), [("auc", 0.9, True), ("log_loss", 0.3, True), ("log_loss", 1e-6, False)]
)
def test_a_pass_ends_once_its_target_is_reached(metric: str, target: float, stops: bool) -> None:
    batches, held_out = list(make_batches(SCHEMA, 200)), list(make_batches(SCHEMA, 20))
    rule = EarlyStop.model_validate({"metric": metric, "target": target, "every": 0.1})
    state = begun()
    report = train_pass(state, batches, total_steps=200, early_stopping=EarlyStopping(rule, lambda: held_out, 200))
    assert (report.stopped_early is stops and report.steps == 200) or report.steps % 20 == 0
    assert (report.steps < 200) is stops
    labels = np.concatenate([batch.labels.numpy() for batch in held_out])
    assert rule.reached(summary(labels, predict(state.model, held_out))[metric]) is stops
    # A pass that was interrupted in between ends at the same step.
    again = begun()
    train_pass(again, batches[:13], total_steps=200, early_stopping=EarlyStopping(rule, lambda: held_out, 200))
    resumed = train_pass(again, batches[13:], total_steps=200, early_stopping=EarlyStopping(rule, lambda: held_out, 200))
    assert resumed.steps == report.steps and same_weights(state, again)


def test_a_pass_that_was_interrupted_before_an_evaluation_resumes_with_it() -> None:
    batches, held_out = list(make_batches(SCHEMA, 200)), list(make_batches(SCHEMA, 20))
    rule, stopped = EarlyStop(metric="auc", target=0.9, every=0.1), begun()
    report = train_pass(stopped, batches, total_steps=200, early_stopping=EarlyStopping(rule, lambda: held_out, 200))
    resumed = begun()
    train_pass(resumed, batches[: report.steps], total_steps=200)
    rest = EarlyStopping(rule, lambda: held_out, 200)
    again = train_pass(resumed, batches[report.steps :], total_steps=200, early_stopping=rest)
    assert report.stopped_early and again.stopped_early and again.steps == report.steps < 200
    assert same_weights(stopped, resumed)
