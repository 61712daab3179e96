"""One loop: it learns, counts, schedules, and refuses to go on with a loss that is no number."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from ml.datasets.batch import Batch
from ml.metrics import summary
from ml.models.predict import predict
from ml.recipes.recipe import EarlyStop, load_recipe
from ml.schema import FeatureSchema
from ml.training.early_stop import EarlyStopping
from ml.training.loop import DivergedError, steps, train_step
from ml.training.objectives import cross_entropy
from ml.training.passes import train_pass
from ml.training.report import Step
from ml.training.state import TrainState, new_state
from tests.helpers.training_days import make_batches, small_recipe

SCHEMA = FeatureSchema(("x", "y"), ("a", "b"), ("m",), "f")


def begun(**overrides: object) -> TrainState:
    state = new_state(small_recipe(**overrides), SCHEMA)
    state.begin_pass()
    return state


def weights(state: TrainState) -> list[torch.Tensor]:
    tables = [t for bags in state.bags.values() for t in bags.weights().values()]
    return [*tables, *(p.detach() for group in state.optimizer.param_groups for p in group["params"])]


def test_the_loss_falls_on_a_learnable_stream() -> None:
    state, losses = begun(), []
    report = train_pass(state, make_batches(SCHEMA, 300), total_steps=300, after_step=lambda step: losses.append(step.loss))
    assert sum(losses[-20:]) / 20 < 0.3 * sum(losses[:20]) / 20
    assert report.loss == pytest.approx(sum(losses) / len(losses), rel=1e-9)


def test_a_step_carries_the_logits_of_its_rows_before_they_were_trained_on() -> None:
    state, batches = begun(), list(make_batches(SCHEMA, 10))
    train_pass(state, batches, total_steps=20)  # so that every id has a row
    for batch in batches:
        before = predict(state.model, [batch])
        (step,) = steps(state, [batch], total_steps=20)
        assert step.batch is batch and step.logits is not None and not step.logits.requires_grad
        torch.testing.assert_close(torch.sigmoid(step.logits).numpy(), before)
        loss = torch.nn.functional.binary_cross_entropy_with_logits(step.logits, batch.labels).item()
        assert step.loss == pytest.approx(loss, rel=1e-6)


def test_logits_of_a_step_are_those_of_the_rows_that_were_sampled() -> None:
    state, (batch,) = begun(sampling_correction=True), make_batches(SCHEMA, 1)
    train_pass(state, [batch], total_steps=3)
    sampled = replace(batch, sample_rate=torch.full_like(batch.sample_rate, 0.1))
    expected = predict(state.model, [sampled], corrected=True)
    step = train_step(state, sampled, total_steps=3)
    assert step.logits is not None
    torch.testing.assert_close(torch.sigmoid(step.logits).numpy(), expected)


def test_a_loss_over_clicked_rows_alone_has_no_logits() -> None:
    recipe = load_recipe(
        "two_tower", {"model": {"user": ["a", "x"], "item": ["b", "y"], "item_id": "b", "embedding_dim": 4, "hidden": [8]}}
    )
    state, (batch,) = new_state(recipe, SCHEMA), make_batches(SCHEMA, 1)
    state.begin_pass()
    step = train_step(state, batch, total_steps=1)
    assert step.logits is None and step.num_losses == int(batch.labels.sum()) < step.rows == 32


def test_a_caller_may_stop_between_two_steps_and_go_on_later() -> None:
    whole, stopped, batches = begun(), begun(), list(make_batches(SCHEMA, 6))
    train_pass(whole, batches, total_steps=6)
    for step in steps(stopped, batches, total_steps=6):
        if step.index == 2:
            break
    assert stopped.steps == 3
    for _ in steps(stopped, batches[3:], total_steps=6):
        pass
    stopped.end_pass()
    assert all(torch.equal(a, b) for a, b in zip(weights(whole), weights(stopped), strict=True))


def test_the_report_counts_what_was_done() -> None:
    state, seen = begun(), []
    batches = list(make_batches(SCHEMA, 7))
    report = train_pass(state, batches, total_steps=7, after_step=lambda step: seen.append((state.steps, step.index)))
    assert (report.steps, report.rows) == (7, 7 * 32) == (state.steps, state.rows)
    assert seen == [(i + 1, i) for i in range(7)]
    distinct = sum(len(torch.cat([batch.sparse[key].values() for batch in batches]).unique()) for key in SCHEMA.sparse)
    assert report.rows_touched == distinct  # ids below the number of rows are their own rows
    assert report.samples_per_second > 0
    assert report.seconds_waiting >= 0 <= report.seconds_computing


def test_learning_rates_follow_the_schedule_on_both_sides() -> None:
    seen: list[Step] = []
    state = begun(schedule={"warm_up": 0.5, "decay_start": 0.5, "decay_to": 0.5})
    train_pass(state, make_batches(SCHEMA, 4), total_steps=4, after_step=seen.append)
    factors = [0.5, 1.0, 0.75, 0.5]
    assert [s.learning_rates["dense"] for s in seen] == pytest.approx([0.001 * f for f in factors])
    assert [s.learning_rates["tables"] for s in seen] == pytest.approx([0.05 * f for f in factors])


def test_training_twice_gives_the_same_bits() -> None:
    one, same = begun(), begun()
    for state in (one, same):
        train_pass(state, make_batches(SCHEMA, 20), total_steps=20)
    assert all(torch.equal(a, b) for a, b in zip(weights(one), weights(same), strict=True))


def test_no_batches_change_nothing() -> None:
    state = begun()
    before = [w.clone() for w in weights(state)]
    report = train_pass(state, [], total_steps=0)
    assert (report.rows, report.steps, report.loss) == (0, 0, None)
    assert all(torch.equal(a, b) for a, b in zip(weights(state), before, strict=True))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_stops_before_it_spoils_the_weights(value: float) -> None:
    def damaged() -> Iterator[Batch]:
        for number, batch in enumerate(make_batches(SCHEMA, 5)):
            yield replace(batch, dense=torch.full_like(batch.dense, value)) if number == 3 else batch

    state = begun()
    with pytest.raises(DivergedError, match=r"step 3 of the pass over 2026-01-01 \(UTC\)"):
        train_pass(state, damaged(), total_steps=5)
    assert state.steps == 3
    assert all(torch.isfinite(w).all() for w in weights(state))


def test_the_gradient_is_clipped_where_the_recipe_says_so() -> None:
    def gradient(clip: float | None) -> float:
        # The first step leaves the squared gradient in Adagrad's accumulator.
        state = begun(dense_optimizer={"kind": "adagrad", "clip_norm": clip, "weight_decay": 0})
        train_pass(state, make_batches(SCHEMA, 1), total_steps=1)
        return float(sum(slots["sum"].sum() for slots in state.optimizer.state.values())) ** 0.5

    assert gradient(1e-3) == pytest.approx(1e-3, rel=1e-3)
    assert gradient(None) > 0.01


def test_a_state_without_a_pass_is_refused() -> None:
    with pytest.raises(ValueError, match="begin_pass"):
        train_pass(new_state(small_recipe(), SCHEMA), [], total_steps=0)


def test_threads_are_put_back() -> None:
    before = torch.get_num_threads()
    train_pass(begun(threads=before + 1), make_batches(SCHEMA, 1), total_steps=1)
    assert torch.get_num_threads() == before


def test_smoothed_labels_are_learned_as_such() -> None:
    batch = next(iter(make_batches(SCHEMA, 1)))
    logits = torch.linspace(-3, 3, len(batch))
    plain, smooth = (cross_entropy(logits, batch.labels, share) for share in (0.0, 0.2))
    opposite = cross_entropy(logits, 1 - batch.labels)
    torch.testing.assert_close(smooth, 0.9 * plain + 0.1 * opposite)


def test_sampled_rows_teach_the_odds_of_the_log() -> None:
    """Clicks of 1 %, of the others one in 50 or one in 10 kept, as a dense feature says: the logits find the 1 % again."""
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
        as_learned = summary(known, predict(state.model, [whole], corrected))
        assert as_learned["calibration"] == pytest.approx(1, abs=0.05)
        rule = EarlyStop(metric="log_loss", target=(as_learned["log_loss"] or 0) + 0.01, every=0.5)
        assert EarlyStopping(rule, lambda: [whole], 600).reached(state), "which is how the target is looked at"
        seen[corrected] = [float(clicked[whole.dense[:, 0].numpy() == kind].mean()) for kind in (0, 1)]
    assert seen[True] == pytest.approx([0.01, 0.01], rel=0.1)
    assert seen[False][0] > 0.2 and 0.05 < seen[False][1] < 0.15, "else it learns the odds of what was kept"


def test_dropout_draws_the_same_whoever_else_draws_and_wherever_it_is_interrupted() -> None:
    dropping = {"model": {"dropout": 0.3, "embedding_dim": 4, "bottom": [8], "top": [8]}}
    batches = list(make_batches(SCHEMA, 8))
    one, other, none = begun(**dropping), begun(**dropping), begun()
    torch.manual_seed(1)
    train_pass(one, batches, total_steps=8)
    before = torch.get_rng_state()
    train_pass(other, batches[:3], total_steps=8)
    assert torch.equal(torch.get_rng_state(), before), "and leaves chance as it was"
    torch.manual_seed(2)
    train_pass(other, batches[3:], total_steps=8)
    train_pass(none, batches, total_steps=8)
    assert all(torch.equal(a, b) for a, b in zip(weights(one), weights(other), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(weights(one), weights(none), strict=True))


def test_bfloat16_ends_near_float32() -> None:
    batches = list(make_batches(SCHEMA, 200))
    losses = [train_pass(begun(precision=kind), batches, total_steps=200).loss for kind in ("float32", "bfloat16")]
    assert losses[0] != losses[1] and losses[1] == pytest.approx(losses[0], rel=0.01)


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
    assert resumed.steps == report.steps and all(torch.equal(a, b) for a, b in zip(weights(state), weights(again), strict=True))
