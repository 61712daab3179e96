"""Reports of passes, and the refusal of a state without a pass."""

from __future__ import annotations

import pytest
import torch

from ml.training.passes import train_pass
from ml.training.state import new_state
from tests.helpers.training_days import make_batches, small_recipe
from tests.helpers.training_states import SCHEMA, begun, weights


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


def test_no_batches_change_nothing() -> None:
    state = begun()
    before = [w.clone() for w in weights(state)]
    report = train_pass(state, [], total_steps=0)
    assert (report.rows, report.steps, report.loss) == (0, 0, None)
    assert all(torch.equal(a, b) for a, b in zip(weights(state), before, strict=True))


def test_a_state_without_a_pass_is_refused() -> None:
    with pytest.raises(ValueError, match="begin_pass"):
        train_pass(new_state(small_recipe(), SCHEMA), [], total_steps=0)
