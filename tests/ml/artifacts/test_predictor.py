"""A loaded model gives the bits of the saved one, for every model and kind of table; files that do not fit are refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load, save
from torch import nn
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor
from upath import UPath

from ml.artifacts.predictor import TorchPredictor
from ml.artifacts.snapshot import OPTIMIZER, STATE, DamagedSnapshot, SnapshotMismatch, digest, file_name
from ml.artifacts.weights import bytes_of
from ml.datasets.batch import Batch
from ml.embeddings.inference.formats import Format
from ml.embeddings.inference.quantise import quantise_tables
from ml.embeddings.inference.quantised import QuantisedBags
from ml.models.int8 import Int8Linear, quantise_layers
from ml.recipes.recipe import Recipe, load_recipe
from ml.schema import FeatureSchema
from ml.training.passes import train_pass
from ml.training.state import TrainState, new_state
from ml.training.state_dict import save_snapshot
from tests.helpers.snapshots import WEIGHTS_FILE, change_state, record_digests
from tests.helpers.training_days import make_batches

SCHEMA = FeatureSchema(("x", "y"), ("a", "b", "c", "d"), ("m",), "fingerprint")
TABLES = {
    "b": {"kind": "hashed", "rows": 5000},
    "c": {"kind": "static", "rows": 40},
    "d": {"kind": "compositional", "rows": 90, "operation": "project", "dim": 4, "family": "naive", "universe": 50},
    "m": {"kind": "shared", "of": "a"},
}
WIDE = {"kind": "ftrl", "lr": 0.02}
TOWERS = {"user": ["b", "m", "x"], "item": ["a", "c", "d", "y"], "item_id": "a", "loss": "pointwise"}
MODELS: dict[str, dict[str, Any]] = {
    "dlrm": {"model": {"bottom": [8], "top": [8], "interaction": "cat"}, "tables": {"features": TABLES}},
    "wide_deep": {"model": {"deep": [8], "crosses": [["a", "b"]]}, "tables": {"features": TABLES}},
    "deepfm": {"model": {"deep": [8]}},
    "dcn_v2": {"model": {"deep": [8], "low_rank": 3}, "exclude_features": ["d"]},
    "two_tower": {"model": {"hidden": [8], "out": 4, **TOWERS}, "tables": {"features": TABLES}},
}


def trained_state(name: str) -> TrainState:
    overrides = MODELS[name]
    recipe = load_recipe(name, overrides | {"model": {"embedding_dim": 8, **overrides["model"]}})
    state = new_state(recipe, SCHEMA)
    state.begin_pass()
    train_pass(state, make_batches(SCHEMA, 5), total_steps=5)
    return state


def trained(name: str) -> tuple[nn.Module, Recipe]:
    state = trained_state(name)
    return state.model.eval(), state.recipe


def strange() -> Batch:
    """A batch of trained ids and ids without a row."""
    batch = next(make_batches(SCHEMA, 1, seed=1))
    ids = batch.sparse.values().clone()
    ids[::3] = torch.randint(-(2**62), 2**62, (len(ids[::3]),))
    return Batch(
        batch.dense,
        KeyedJaggedTensor(batch.sparse.keys(), ids, lengths=batch.sparse.lengths()),
        batch.labels,
        batch.sample_rate,
        batch.event_time,
    )


def saved(folder: Path, name: str = "dlrm", rows: Format = "int8") -> tuple[nn.Module, Path]:
    model, recipe = trained(name)
    quantise_tables(model, rows, {"c": "float16"})
    quantise_layers(model)
    folder.mkdir()
    TorchPredictor(model, recipe, SCHEMA).save(folder)
    return model, folder


@pytest.mark.parametrize("name", list(MODELS))
def test_a_loaded_model_gives_the_same_bits(tmp_path: Path, name: str) -> None:
    model, folder = saved(tmp_path / "one", name)
    loaded = TorchPredictor.load(folder).model
    for batch in (strange(), next(make_batches(SCHEMA, 1))):
        assert torch.equal(loaded(batch.dense, batch.sparse), model(batch.dense, batch.sparse))
    assert {path.name for path in folder.iterdir()} == {WEIGHTS_FILE, STATE}
    assert not loaded.training and not any(parameter.requires_grad for parameter in loaded.parameters())
    kinds = [type(module) for module in loaded.modules()]
    assert kinds.count(QuantisedBags) == sum(isinstance(m, QuantisedBags) for m in model.modules()) > 0
    assert kinds.count(Int8Linear) == sum(isinstance(m, Int8Linear) for m in model.modules()) > 0


def test_a_loaded_model_is_saved_in_the_same_bytes(tmp_path: Path) -> None:
    _, one = saved(tmp_path / "one")
    two = tmp_path / "two"
    two.mkdir()
    TorchPredictor.load(one).save(two)
    assert digest(one) == digest(two)
    saved(tmp_path / "three", rows="int4")
    assert digest(one) != digest(tmp_path / "three")


@pytest.mark.parametrize("name", list(MODELS))
def test_float32_is_the_trained_model_also_for_unknown_ids(tmp_path: Path, name: str) -> None:
    model, recipe = trained(name)
    batch, before = strange(), bytes_of(model)
    wanted = model(batch.dense, batch.sparse)
    quantise_tables(model, "float32")
    TorchPredictor(model, recipe, SCHEMA).save(tmp_path)
    torch.testing.assert_close(TorchPredictor.load(tmp_path).model(batch.dense, batch.sparse), wanted)
    assert 0 <= before - bytes_of(model) <= 32, "except the steps that tables count"


def test_bytes_of_counts_the_tensors_that_are_written(tmp_path: Path) -> None:
    model, folder = saved(tmp_path / "one")
    assert 0 < (folder / WEIGHTS_FILE).stat().st_size - bytes_of(model) < 10_000, "names and shapes"
    towers, folder = saved(tmp_path / "two", "two_tower")
    assert bytes_of(towers) < sum(t.nbytes for t in towers.get_submodule("frequency").buffers()), "needed for training only"


def test_files_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    _, folder = saved(tmp_path / "one")
    _, other = saved(tmp_path / "two", "deepfm")
    weights, state = folder / WEIGHTS_FILE, folder / STATE
    whole, described = weights.read_bytes(), state.read_bytes()
    metadata = json.loads(described)["metadata"]
    tensors, table = load(whole), "tables/sparse_arch.embedding_bag_collection.kinds"
    for name, few in (("collisionless/a.rows", 5), ("collisionless/a.id", 5), ("hashed/b.rows", 2)):
        weights.write_bytes(save(tensors | {f"{table}.{name}": tensors[f"{table}.{name}"][:few].contiguous()}))
        record_digests(folder)
        with pytest.raises(DamagedSnapshot, match=r"export its day again\): (a\.id: expected|b: 2 rows)"):
            TorchPredictor.load(folder)
    for damaged in (whole[:-5], (other / WEIGHTS_FILE).read_bytes(), b""):
        weights.write_bytes(damaged)
        state.write_bytes(described)
        with pytest.raises(DamagedSnapshot, match=f"{weights} is not the file that state.json describes; restore the folder"):
            TorchPredictor.load(folder)
        record_digests(folder)
        with pytest.raises(DamagedSnapshot, match=f"{folder}.* (cannot be read|do not fit) .*export its day again"):
            TorchPredictor.load(folder)
    weights.unlink()
    with pytest.raises(DamagedSnapshot, match=f"{weights} is missing; restore the folder"):
        TorchPredictor.load(folder)
    weights.write_bytes(whole)
    huge = metadata["recipe"] | {"model": metadata["recipe"]["model"] | {"top": [10**7, 10**6]}}
    quantised = metadata["quantised"]
    for changed in (
        {"recipe": {}},
        {"recipe": huge},
        {"quantised": quantised | {"layers": ["none"]}},
        {"quantised": quantised | {"tables": {}}},
        {"quantised": None},
        {"schema": None},
    ):
        state.write_bytes(described)
        change_state(folder, **changed)
        with pytest.raises(DamagedSnapshot, match=rf"{folder}: its weights do not fit state\.json"):
            TorchPredictor.load(folder)
    for text in (b"\xff\xfe{}", b"[]", b""):
        state.write_bytes(text)
        with pytest.raises(DamagedSnapshot, match=f"{state} cannot be read"):
            TorchPredictor.load(folder)
    state.write_text(json.dumps(json.loads(described) | {"format": 99}))
    with pytest.raises(SnapshotMismatch, match="format 99, this code reads 6"):
        TorchPredictor.load(folder)
    state.write_bytes(described)
    TorchPredictor.load(folder)


def test_another_schema_is_refused_by_name(tmp_path: Path) -> None:
    _, folder = saved(tmp_path / "one")
    TorchPredictor.load(folder, SCHEMA)
    with pytest.raises(SnapshotMismatch, match=r"schema\.fingerprint: 'fingerprint' in the snapshot, 'other' asked for"):
        TorchPredictor.load(folder, replace(SCHEMA, fingerprint="other"))


def test_the_recipe_decides_how_ids_find_their_rows(tmp_path: Path) -> None:
    model, folder = saved(tmp_path / "one")
    batch = strange()
    quantised = json.loads((folder / STATE).read_text())["metadata"]["quantised"]
    for table in quantised["tables"].values():
        table["kind"] = "static"
    change_state(folder, quantised=quantised)
    assert torch.equal(TorchPredictor.load(folder).model(batch.dense, batch.sparse), model(batch.dense, batch.sparse))


@pytest.mark.parametrize("name", list(MODELS))
def test_a_trained_state_is_loaded_for_predictions_without_its_optimizer(tmp_path: Path, name: str) -> None:
    state = trained_state(name)
    save_snapshot(state, tmp_path)
    optimizer = tmp_path / file_name(OPTIMIZER, 0, 1)
    optimizer.unlink()
    model, batch = TorchPredictor.load(tmp_path, SCHEMA).model, strange()
    assert torch.equal(model(batch.dense, batch.sparse), state.model.eval()(batch.dense, batch.sparse))


def test_probabilities_are_corrected_for_sampling_if_the_recipe_asks(tmp_path: Path) -> None:
    state, batch = trained_state("dlrm"), strange()
    sampled = replace(batch, sample_rate=torch.full((len(batch),), 0.25))
    plain = TorchPredictor(state.model.eval(), state.recipe, SCHEMA)
    corrected = replace(plain, recipe=state.recipe.model_copy(update={"sampling_correction": "loss"}))
    wanted = plain.predict(batch)
    for predictor in (plain, corrected):
        assert (predictor.predict(sampled) == wanted).all(), "the full log"
    assert (plain.predict(sampled, sampled=True) == wanted).all()
    odds = wanted / (1 - wanted) / 0.25
    torch.testing.assert_close(torch.from_numpy(corrected.predict(sampled, sampled=True)), torch.from_numpy(odds / (1 + odds)))


def test_a_model_is_stored_on_any_filesystem() -> None:
    model, recipe = trained("dlrm")
    folder = UPath("memory://models/one")
    folder.mkdir(parents=True)
    TorchPredictor(model, recipe, SCHEMA).save(folder)
    batch = strange()
    assert torch.equal(TorchPredictor.load(folder).model(batch.dense, batch.sparse), model(batch.dense, batch.sparse))
