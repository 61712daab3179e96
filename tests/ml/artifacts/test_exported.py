"""What is loaded gives the bits of what was saved, whatever the model and its tables; what does not fit is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load, save
from torch import nn
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from ml.artifacts.exported import MODEL, WEIGHTS, DamagedExport, bytes_of, digest, load_exported, save_exported
from ml.datasets.batch import Batch
from ml.embeddings.inference.formats import Format
from ml.embeddings.inference.quantised import QuantisedBags, quantise_tables
from ml.models.int8 import Int8Linear, quantise_layers
from ml.recipes.recipe import Recipe, load_recipe
from ml.schema import FeatureSchema
from ml.training.passes import train_pass
from ml.training.state import new_state
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


def trained(name: str) -> tuple[nn.Module, Recipe]:
    overrides = MODELS[name]
    recipe = load_recipe(name, overrides | {"model": {"embedding_dim": 8, **overrides["model"]}})
    state = new_state(recipe, SCHEMA)
    state.begin_pass()
    train_pass(state, make_batches(SCHEMA, 5), total_steps=5)
    return state.model.eval(), recipe


def strange() -> Batch:
    """Ids that were trained on, and ids that no table knows."""
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
    save_exported(model, recipe, SCHEMA, folder)
    return model, folder


@pytest.mark.parametrize("name", list(MODELS))
def test_what_is_loaded_gives_the_same_bits(tmp_path: Path, name: str) -> None:
    model, folder = saved(tmp_path / "one", name)
    loaded = load_exported(folder)
    for batch in (strange(), next(make_batches(SCHEMA, 1))):
        assert torch.equal(loaded(batch.dense, batch.sparse), model(batch.dense, batch.sparse))
    assert {path.name for path in folder.iterdir()} == {WEIGHTS, MODEL}
    assert not loaded.training and not any(parameter.requires_grad for parameter in loaded.parameters())
    kinds = [type(module) for module in loaded.modules()]
    assert kinds.count(QuantisedBags) == sum(isinstance(m, QuantisedBags) for m in model.modules()) > 0
    assert kinds.count(Int8Linear) == sum(isinstance(m, Int8Linear) for m in model.modules()) > 0


def test_what_was_loaded_is_saved_again_in_the_same_bytes(tmp_path: Path) -> None:
    _, one = saved(tmp_path / "one")
    described = json.loads((one / MODEL).read_text())
    two = tmp_path / "two"
    two.mkdir()
    save_exported(load_exported(one), Recipe.model_validate(described["recipe"]), SCHEMA, two)
    assert digest(one) == digest(two)
    saved(tmp_path / "three", rows="int4")
    assert digest(one) != digest(tmp_path / "three")


@pytest.mark.parametrize("name", list(MODELS))
def test_float32_is_the_trained_model_bit_for_bit_and_what_is_unknown_reads_the_same(tmp_path: Path, name: str) -> None:
    model, recipe = trained(name)
    batch, before = strange(), bytes_of(model)
    wanted = model(batch.dense, batch.sparse)
    quantise_tables(model, "float32")
    save_exported(model, recipe, SCHEMA, tmp_path)
    torch.testing.assert_close(load_exported(tmp_path)(batch.dense, batch.sparse), wanted)
    assert 0 <= before - bytes_of(model) <= 32, "but for the versions that tables count"


def test_bytes_are_those_of_the_tensors_that_are_written(tmp_path: Path) -> None:
    model, folder = saved(tmp_path / "one")
    assert 0 < (folder / WEIGHTS).stat().st_size - bytes_of(model) < 10_000, "names and shapes"
    towers, folder = saved(tmp_path / "two", "two_tower")
    assert bytes_of(towers) < sum(t.nbytes for t in towers.get_submodule("frequency").buffers()), (
        "needed to learn, not to answer"
    )


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    _, folder = saved(tmp_path / "one")
    _, other = saved(tmp_path / "two", "deepfm")
    whole, described = (folder / WEIGHTS).read_bytes(), json.loads((folder / MODEL).read_text())
    tensors, table = load(whole), "tables/sparse_arch.embedding_bag_collection.kinds"
    for name, few in (("collisionless/a.rows", 5), ("collisionless/a.id", 5), ("hashed/b.rows", 2)):
        (folder / WEIGHTS).write_bytes(save(tensors | {f"{table}.{name}": tensors[f"{table}.{name}"][:few].contiguous()}))
        with pytest.raises(DamagedExport, match=r"export its day again: (a\.id: expected|b: 2 rows)"):
            load_exported(folder)
    for damaged in (whole[:-5], (other / WEIGHTS).read_bytes(), b""):
        (folder / WEIGHTS).write_bytes(damaged)
        with pytest.raises(DamagedExport, match=f"{folder}: .* make no model here; export its day again"):
            load_exported(folder)
    (folder / WEIGHTS).write_bytes(whole)
    for changed in ({"format": 99}, {"recipe": {}}, {"layers": ["none"]}, {"tables": {}}, {"schema": None}):
        (folder / MODEL).write_text(json.dumps(described | changed))
        with pytest.raises(DamagedExport, match="99, this code reads 1" if "format" in changed else "make no model"):
            load_exported(folder)
    huge = described["recipe"] | {"model": described["recipe"]["model"] | {"top": [10**7, 10**6]}}
    for text in (b"\xff\xfe{}", b"[]", b"", json.dumps(described | {"recipe": huge}).encode()):
        (folder / MODEL).write_bytes(text)
        with pytest.raises(DamagedExport, match=f"{folder}: .* make no model here"):
            load_exported(folder)
    (folder / MODEL).write_text(json.dumps(described))
    load_exported(folder)


def test_how_ids_find_their_rows_is_that_of_the_recipe(tmp_path: Path) -> None:
    model, folder = saved(tmp_path / "one")
    described, batch = json.loads((folder / MODEL).read_text()), strange()
    for table in described["tables"].values():
        table["kind"] = "static"
    (folder / MODEL).write_text(json.dumps(described))
    assert torch.equal(load_exported(folder)(batch.dense, batch.sparse), model(batch.dense, batch.sparse))
