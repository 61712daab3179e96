"""Small states that have begun a pass, and their weights."""

from __future__ import annotations

import torch

from ml.schema import FeatureSchema
from ml.training.state import TrainState, new_state
from tests.helpers.training_days import small_recipe

SCHEMA = FeatureSchema(("x", "y"), ("a", "b"), ("m",), "f")


def begun(**overrides: object) -> TrainState:
    """A new state over `SCHEMA` whose first pass has begun."""
    state = new_state(small_recipe(**overrides), SCHEMA)
    state.begin_pass()
    return state


def weights(state: TrainState) -> list[torch.Tensor]:
    tables = [tensor for bags in state.bags.values() for tensor in bags.weights().values()]
    return [*tables, *(parameter.detach() for parameter in state.dense_parameters)]


def same_weights(one: TrainState, other: TrainState) -> bool:
    return all(torch.equal(a, b) for a, b in zip(weights(one), weights(other), strict=True))
