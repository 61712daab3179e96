"""A delta brings a trained or an exported model to the state of the one that was trained on, bit for bit."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load, save
from torch import nn

from ml.artifacts.delta import (
    ModelDelta,
    ModelUndo,
    acknowledge,
    apply_delta,
    merge_model_deltas,
    model_delta,
    pending_delta,
    register_receiver,
    revert_served,
    steps_of,
)
from ml.artifacts.predictor import TorchPredictor
from ml.artifacts.weights import dense_of, weights_of
from ml.datasets.batch import Batch
from ml.embeddings.delta import Gap
from ml.embeddings.inference.quantise import quantise_tables
from ml.embeddings.inference.quantised import QuantisedBags
from ml.models.int8 import Int8Linear, quantise_layers
from ml.models.predict import predict
from ml.recipes.recipe import load_recipe
from ml.training.passes import train_pass
from ml.training.state import TrainState, new_state
from tests.helpers.training_days import make_batches
from tests.ml.artifacts.test_predictor import MODELS, SCHEMA, strange

DAY = 86_400 * 1_000_000
GROWING = {"kind": "collisionless", "ttl_seconds": 100_000, "max_rows": 40}


def state_of(name: str) -> TrainState:
    """Create a state whose collisionless tables expire and evict rows."""
    overrides = {key: dict(value) if isinstance(value, dict) else value for key, value in MODELS[name].items()}
    overrides["tables"] = {**overrides.get("tables", {}), "default": GROWING}
    overrides["model"] = {"embedding_dim": 8, **overrides["model"]}
    return new_state(load_recipe(name, overrides), SCHEMA)


def served(model: nn.Module, delta: ModelDelta, undoable: bool = False) -> tuple[nn.Module, ModelUndo] | None:
    """Apply a delta to a model that may predict meanwhile."""
    pending = pending_delta(model, delta)
    return None if pending is None else (pending.model, pending.write(undoable))


def batches(day: int, steps: int = 4) -> Iterator[Batch]:
    """Yield batches whose ids differ by day: some are new, and some no longer occur."""
    for batch in make_batches(SCHEMA, steps, seed=day):
        batch.sparse.values().add_(7 * day)
        yield replace(batch, event_time=batch.event_time + day * DAY)


def train(state: TrainState, day: int) -> None:
    state.begin_pass()
    train_pass(state, batches(day), total_steps=4)


def exported(state: TrainState, folder: Path) -> nn.Module:
    """Export the model of a state, and load it as a server does."""
    model = copy.deepcopy(state.model).eval()
    quantise_tables(model, "int8", {"a": "float16"})
    quantise_layers(model)
    folder.mkdir(exist_ok=True)
    TorchPredictor(model, state.recipe, state.schema).save(folder)
    return TorchPredictor.load(folder).model


def sent(delta: ModelDelta) -> ModelDelta:
    """Write a delta to tensors, and read it back."""
    return ModelDelta.from_tensors(load(save({name: tensor.contiguous() for name, tensor in delta.to_tensors().items()})))


def assert_same(model: nn.Module, wanted: nn.Module) -> None:
    """Compare tensors and predictions, bit for bit."""
    mine, theirs = weights_of(model), weights_of(wanted)
    assert mine.keys() == theirs.keys()
    assert [name for name, tensor in mine.items() if not torch.equal(tensor, theirs[name])] == []
    for batch in (strange(), *batches(3, 1)):
        with torch.no_grad():
            assert torch.equal(model(batch.dense, batch.sparse), wanted(batch.dense, batch.sparse))


@pytest.mark.parametrize("name", list(MODELS))
def test_an_int8_export_with_deltas_is_a_fresh_export(name: str, tmp_path: Path) -> None:
    state = state_of(name)
    train(state, 0)
    server = exported(state, tmp_path / "server")
    kinds = {type(module) for module in server.modules()}
    assert {Int8Linear, QuantisedBags} <= kinds
    before, deleted = copy.deepcopy(server), 0
    for day in (1, 2):
        train(state, day)
        delta = sent(model_delta(state.model, steps_of(server)))
        deleted += sum(len(table.deleted) for own in delta.tables.values() for table in own.tables.values())
        assert apply_delta(server, delta) and not apply_delta(server, delta)
        assert_same(server, exported(state, tmp_path / f"fresh {day}"))
        with pytest.raises(Gap):
            apply_delta(before, replace(delta, tables={path: replace(d, since=d.step - 1) for path, d in delta.tables.items()}))
        state.model.train()
    assert deleted > 0


@pytest.mark.parametrize("name", list(MODELS))
def test_a_served_model_is_replaced_by_one_with_the_delta_and_restored_bit_for_bit(name: str, tmp_path: Path) -> None:
    """The model from before keeps its dense part, so that a prediction that has begun uses one version of it."""
    state = state_of(name)
    train(state, 0)
    server, before = exported(state, tmp_path / "server"), exported(state, tmp_path / "server")
    register_receiver(state.model, "server", steps_of(server))
    for day in (1, 2):
        train(state, day)
        delta = sent(model_delta(state.model, steps_of(server)))
        done = served(server, delta, undoable=True)
        assert done is not None and served(done[0], delta) is None
        fresh, batch = exported(state, tmp_path / f"fresh {day}"), next(batches(day))
        assert_same(done[0], fresh)
        np.testing.assert_array_equal(predict(done[0], [batch]), predict(fresh, [batch]))
        kept = dense_of(server)
        assert all(torch.equal(kept[name], tensor) for name, tensor in dense_of(before).items())
        assert revert_served(done[1]) is server
        assert_same(server, before)
        state.model.train()


def test_a_served_model_is_unchanged_by_a_refused_delta_and_keeps_its_dense_part_without_one(tmp_path: Path) -> None:
    state = state_of("dlrm")
    train(state, 0)
    server, before = exported(state, tmp_path), exported(state, tmp_path)
    train(state, 1)
    good = model_delta(state.model, steps_of(server), dense=False)
    path, *_, last = good.tables
    wrong = replace(good, tables={**good.tables, last: replace(good.tables[last], since=99, step=100)})
    with pytest.raises(Gap):
        served(server, wrong)
    assert path != last
    assert_same(server, before)
    done = served(server, good)
    assert done is not None and steps_of(done[0]) == steps_of(state.model)
    dense = dense_of(before)
    assert all(torch.equal(tensor, dense[name]) for name, tensor in dense_of(done[0]).items())


@pytest.mark.parametrize("name", list(MODELS))
def test_a_trained_model_with_deltas_predicts_as_the_one_that_was_trained_on(name: str) -> None:
    state, replica = state_of(name), state_of(name)
    for day in range(2):
        train(state, day)
        assert apply_delta(replica.model, sent(model_delta(state.model, steps_of(replica.model))))
        assert steps_of(replica.model) == steps_of(state.model)
        assert_same(replica.model.eval(), state.model.eval())


def test_a_receiver_three_passes_behind_catches_up_by_deltas_alone(tmp_path: Path) -> None:
    state = state_of("dlrm")
    train(state, 0)
    server, stranger = (exported(state, tmp_path / name) for name in ("server", "stranger"))
    register_receiver(state.model, "server", steps_of(server))
    for day in (1, 2, 3):
        train(state, day)
    assert apply_delta(server, sent(model_delta(state.model, steps_of(server))))
    assert_same(server, exported(state, tmp_path / "fresh"))
    acknowledge(state.model, "server", steps_of(server))
    train(state, 4)
    with pytest.raises(Gap, match="are unavailable"):
        model_delta(state.model, steps_of(stranger))
    with pytest.raises(Gap, match="'stranger' is not registered"):
        acknowledge(state.model, "stranger", steps_of(stranger))


def test_a_delta_of_another_model_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    state, other = state_of("dlrm"), state_of("deepfm")
    train(state, 0)
    train(other, 0)
    server = exported(state, tmp_path)
    before = {name: tensor.clone() for name, tensor in weights_of(server).items()}
    with pytest.raises(ValueError, match=r"belongs to another model: \d+ dense tensors differ"):
        apply_delta(server, model_delta(other.model, dict.fromkeys(steps_of(other.model), 0)))
    train(state, 1)
    good = model_delta(state.model, steps_of(server))
    path, *_, last = good.tables
    assert path != last
    for wrong, error, said in (
        (replace(good, dense=good.dense | {"top.extra": torch.zeros(1)}), ValueError, "top.extra: expected none, found"),
        (replace(good, tables={path: good.tables[path]}), ValueError, "are missing or not expected"),
        (
            replace(good, tables={**good.tables, last: replace(good.tables[last], since=99, step=100)}),
            Gap,
            "begins after step 99",
        ),
    ):
        with pytest.raises(error, match=said):
            apply_delta(server, wrong)
        assert all(torch.equal(tensor, before[name]) for name, tensor in weights_of(server).items())
    with pytest.raises(ValueError, match="are missing or not expected"):
        model_delta(state.model, {})
    with pytest.raises(ValueError, match="expected tensors"):
        ModelDelta.from_tensors({"other": torch.zeros(1)})


def test_a_model_without_tables_takes_the_dense_part() -> None:
    trained, server = nn.Linear(3, 2), nn.Linear(3, 2)
    delta = sent(model_delta(trained, steps_of(server)))
    assert delta.tables == {} and apply_delta(server, delta) and apply_delta(server, delta)
    assert torch.equal(server.weight, trained.weight) and torch.equal(server.bias, trained.bias)


def test_a_delta_shares_no_memory_and_counts_its_bytes() -> None:
    state = state_of("dlrm")
    train(state, 0)
    delta = model_delta(state.model, dict.fromkeys(steps_of(state.model), 0))
    kept = {name: tensor.clone() for name, tensor in delta.to_tensors().items()}
    train(state, 1)
    assert all(torch.equal(tensor, kept[name]) for name, tensor in delta.to_tensors().items())
    spans = 24 * len(delta.tables)
    assert delta.nbytes == sum(tensor.nbytes for tensor in kept.values()) - spans
    assert merge_model_deltas([delta]).dense is delta.dense
