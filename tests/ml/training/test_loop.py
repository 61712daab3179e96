"""Training steps: losses, logits, learning rates and random draws, and the errors that stop training."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from ml.datasets.batch import Batch
from ml.models.predict import predict
from ml.recipes.recipe import load_recipe
from ml.recipes.sampling import Correction
from ml.training.loop import DivergedError, steps, train_step
from ml.training.passes import train_pass
from ml.training.report import Step
from ml.training.state import new_state
from tests.helpers.training_days import make_batches
from tests.helpers.training_states import SCHEMA, begun, same_weights, weights


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
    expected = predict(state.model, [sampled], Correction(per_row=True))
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
    assert same_weights(one, same)


def test_the_gradient_is_clipped_where_the_recipe_says_so() -> None:
    def gradient(clip: float | None) -> float:
        # The first step leaves the squared gradient in Adagrad's accumulator.
        state = begun(dense_optimizer={"kind": "adagrad", "clip_norm": clip, "weight_decay": 0})
        train_pass(state, make_batches(SCHEMA, 1), total_steps=1)
        return float(sum(slots["sum"].sum() for slots in state.optimizer.state.values())) ** 0.5

    assert gradient(1e-3) == pytest.approx(1e-3, rel=1e-3)
    assert gradient(None) > 0.01


def test_threads_are_put_back() -> None:
    before = torch.get_num_threads()
    train_pass(begun(threads=before + 1), make_batches(SCHEMA, 1), total_steps=1)
    assert torch.get_num_threads() == before


def test_bfloat16_ends_near_float32() -> None:
    batches = list(make_batches(SCHEMA, 200))
    losses = [train_pass(begun(precision=kind), batches, total_steps=200).loss for kind in ("float32", "bfloat16")]
    assert losses[0] != losses[1] and losses[1] == pytest.approx(losses[0], rel=0.01)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_before_the_update(value: float) -> None:
    def damaged() -> Iterator[Batch]:
        for number, batch in enumerate(make_batches(SCHEMA, 5)):
            yield replace(batch, dense=torch.full_like(batch.dense, value)) if number == 3 else batch

    state = begun()
    with pytest.raises(DivergedError, match=r"step 3 of the pass over 2026-01-01 \(UTC\)"):
        train_pass(state, damaged(), total_steps=5)
    assert state.steps == 3
    assert all(torch.isfinite(w).all() for w in weights(state))


def test_dropout_depends_on_seed_and_step_alone() -> None:
    dropping = {"model": {"dropout": 0.3, "embedding_dim": 4, "bottom": [8], "top": [8]}}
    batches = list(make_batches(SCHEMA, 8))
    one, other, none = begun(**dropping), begun(**dropping), begun()
    torch.manual_seed(1)
    train_pass(one, batches, total_steps=8)
    before = torch.get_rng_state()
    train_pass(other, batches[:3], total_steps=8)
    assert torch.equal(torch.get_rng_state(), before), "the global random state is restored"
    torch.manual_seed(2)
    train_pass(other, batches[3:], total_steps=8)
    train_pass(none, batches, total_steps=8)
    assert same_weights(one, other)
    assert not same_weights(one, none)


def test_a_caller_may_stop_between_two_steps_and_continue_later() -> None:
    whole, stopped, batches = begun(), begun(), list(make_batches(SCHEMA, 6))
    train_pass(whole, batches, total_steps=6)
    for step in steps(stopped, batches, total_steps=6):
        if step.index == 2:
            break
    assert stopped.steps == 3
    for _ in steps(stopped, batches[3:], total_steps=6):
        pass
    stopped.end_pass()
    assert same_weights(whole, stopped)
