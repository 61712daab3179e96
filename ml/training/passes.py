"""A pass reads data once in order, from `TrainState.begin_pass` to the end of the data or to the early-stopping target.

A pass is usually a day. An interrupted pass continues in another process with the remaining batches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from ml.datasets.batch import Batch
from ml.distributed.process_group import Ranks
from ml.training.early_stop import EarlyStopping
from ml.training.loop import steps
from ml.training.report import PassMeter, Step, TrainReport
from ml.training.state import TrainState


def train_pass(
    state: TrainState,
    batches: Iterable[Batch],
    *,
    total_steps: int,
    after_step: Callable[[Step], None] | None = None,
    early_stopping: EarlyStopping | None = None,
    ranks: Ranks | None = None,
) -> TrainReport:
    """Train to the end of the running pass, and end it.

    Args:
        state: A state whose pass has begun, or was resumed from a checkpoint; updated in place.
        batches: The remaining batches; with `ranks`, this rank's part of each.
        total_steps: Number of steps of the whole pass, for the learning-rate schedule.
        after_step: Called once the update of a step is complete. It may save the state, or raise to stop training.
        early_stopping: Ends the pass at the step at which its target is reached.
        ranks: The processes that train together.

    Returns:
        The report of the pass.

    Raises:
        DivergedError: The loss is not finite. The weights have not been updated.
        ValueError: The state has no running pass.

    Example:
        >>> import torch
        >>> from torchrec.sparse.jagged_tensor import KeyedJaggedTensor
        >>> from ml.schema import FeatureSchema
        >>> from ml.recipes.recipe import load_recipe
        >>> from ml.training.state import new_state
        >>> schema = FeatureSchema(dense=("age",), single=("user", "item"), multi=(), fingerprint="f")
        >>> state = new_state(load_recipe("dlrm"), schema)
        >>> ids, one_each = torch.tensor([1, 2, 3, 4]), torch.ones(4, dtype=torch.int32)
        >>> sparse = KeyedJaggedTensor(["user", "item"], ids, lengths=one_each)
        >>> batch = Batch(torch.rand(2, 1), sparse, torch.tensor([0.0, 1.0]), torch.ones(2), torch.tensor([0, 1]))
        >>> state.begin_pass()
        >>> train_pass(state, [batch], total_steps=1).rows
        2
    """
    if state.running is None:
        raise ValueError("the state has no running pass: call begin_pass(), or resume a checkpoint")
    meter, step = PassMeter(state, batches), None
    # A pass that was interrupted between a step and its evaluation begins with that evaluation.
    stopped = early_stopping is not None and early_stopping.reached(state)
    if not stopped:
        for step in steps(state, meter, total_steps=total_steps, ranks=ranks):
            if after_step is not None:
                after_step(step)
            if early_stopping is not None and early_stopping.reached(state):
                stopped = True
                break
    state.end_pass()
    return meter.report(step, stopped)
