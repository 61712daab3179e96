"""Collects the shares of several ranks on the first rank, which publishes the model that they train together."""

from __future__ import annotations

from collections.abc import Sequence

from safetensors.torch import load, save

from ml.artifacts.delta import ModelDelta, merge_model_deltas
from ml.artifacts.predictor import collections_by_id
from ml.artifacts.snapshot import TABLES, Tensors, below, own_tensors
from ml.artifacts.weights import weights_of
from ml.distributed.process_group import Ranks
from ml.embeddings.collisionless.state_dict import merge_shards
from ml.embeddings.interface import bags_of
from ml.training.state import TrainState


def gather_delta(share: ModelDelta, ranks: Ranks | None) -> ModelDelta | None:
    """Merge the shares of all ranks. Every rank must call it.

    Args:
        share: This rank's share. The dense part is taken from the first rank.
        ranks: The processes that train together; None for one.

    Returns:
        The delta of the whole model on the first rank; None on the others.
    """
    if ranks is None:
        return share
    own = share if ranks.rank == 0 else ModelDelta({}, share.tables)
    parts = _gather(own.to_tensors(), ranks)
    return None if parts is None else merge_model_deltas([ModelDelta.from_tensors(part) for part in parts])


def gather_weights(state: TrainState, ranks: Ranks | None) -> Tensors | None:
    """Collect the tensors that predictions need, as `weights_of` returns them in one process. Every rank must call it.

    Args:
        state: The state; each rank holds its part.
        ranks: The processes that train together; None for one.

    Returns:
        The tensors on the first rank; None on the others.
    """
    tensors = weights_of(state.model)
    if ranks is None:
        return tensors
    by_id = collections_by_id(state.model)
    parts = _gather(own_tensors(tensors, by_id, ranks.rank, ranks.size), ranks)
    if parts is None:
        return None
    whole = {name: tensor for part in parts for name, tensor in part.items()}
    for path, tables in by_id.items():
        whole |= {f"{TABLES}{path}/{name}": t for name, t in _merged(parts, path, tables).items()}
    return whole


def align_steps(state: TrainState, ranks: Ranks | None) -> None:
    """Raise the step of each collection to the latest step of all ranks. Every rank must call it."""
    bags = bags_of(state.model)
    if ranks is not None and bags:
        latest = ranks.all_gather(*(own.step for own in bags.values()))
        for own, steps in zip(bags.values(), zip(*latest, strict=True), strict=True):
            own.advance_to(max(steps))


def _merged(parts: Sequence[Tensors], path: str, tables: Sequence[str]) -> Tensors:
    return merge_shards([below(part, f"{TABLES}{path}/") for part in parts], tables)


def _gather(tensors: Tensors, ranks: Ranks) -> list[Tensors] | None:
    found = ranks.gather_bytes(save({name: tensor.contiguous() for name, tensor in tensors.items()}))
    return None if found is None else [load(data) for data in found]
