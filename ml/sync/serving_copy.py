"""Copies of models under training for inference, with rows in the format in which they are published."""

from __future__ import annotations

from torch import nn

from ml.artifacts.predictor import TorchPredictor
from ml.artifacts.weights import dense_of, fill, load_weights, quantised_of
from ml.distributed.process_group import Ranks
from ml.embeddings.inference.kinds import quantisable
from ml.embeddings.inference.quantise import quantise_bags, quantise_tables
from ml.embeddings.interface import bags_of
from ml.models.build import build_model
from ml.sync.manifest import RowFormat
from ml.sync.shares import gather_weights
from ml.training.state import TrainState


def serving_copy(state: TrainState, rows: RowFormat) -> TorchPredictor:
    """Copy the model of a state of one process for inference, with its tables quantised to a row format."""
    model = build_model(state.recipe, state.schema).requires_grad_(False).eval()
    packed = quantisable(state.model)
    for path, bags in bags_of(state.model).items():
        if path in packed:
            model.set_submodule(path, quantise_bags(bags, rows)[0])
        else:
            bags_of(model)[path].restore(bags.weights(), None)
    fill(dense_of(model), dense_of(state.model))
    return TorchPredictor(model, state.recipe, state.schema)


def gather_copy(state: TrainState, rows: RowFormat, ranks: Ranks | None) -> TorchPredictor | None:
    """Copy the model that several ranks train, as `serving_copy` does in one process. Every rank must call it.

    Args:
        state: The state; each rank holds its part.
        rows: Format of the rows.
        ranks: The processes that train together; None for one.

    Returns:
        The copy on the first rank; None on the others.
    """
    if ranks is None:
        return serving_copy(state, rows)
    if (weights := gather_weights(state, ranks)) is None:
        return None
    model = build_model(state.recipe, state.schema).requires_grad_(False).eval()
    load_weights(model, weights)
    quantise_tables(model, rows)
    return TorchPredictor(model, state.recipe, state.schema)


def rows_of(model: nn.Module) -> int:
    """Count the rows of all tables of a model."""
    held = {**bags_of(model), **quantised_of(model)}
    return sum(config.num_embeddings for bags in held.values() for config in bags.embedding_bag_configs())
