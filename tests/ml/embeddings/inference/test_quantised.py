"""Quantised tables return the same bags as the trained tables, up to the rounding error of their format."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torchrec.modules.embedding_configs import EmbeddingBagConfig, PoolingType
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from ml.embeddings.collisionless.bags import CollisionlessEmbeddingBags
from ml.embeddings.fixed.static import StaticEmbeddingBags
from ml.embeddings.inference import growing_memory
from ml.embeddings.inference.formats import Format, fitting, row_bytes
from ml.embeddings.inference.growing_memory import GrowingMemory
from ml.embeddings.inference.pack import unpack
from ml.embeddings.inference.packed_tables import PackedTables
from ml.embeddings.inference.quantise import quantise_bags, quantise_tables
from ml.embeddings.inference.quantised import QuantisedBags
from ml.embeddings.interface import TrainableBags
from ml.models.build import build_model
from ml.recipes.recipe import load_recipe
from ml.schema import FeatureSchema
from tests.helpers.paths import ROOT
from tests.ml.embeddings.test_interface import (
    NAMES,
    Build,
    collisionless,
    compositional,
    configs_of,
    features_of,
    hashed,
    static,
    trained,
)

BATCH = {"type": [[2, 9], [], [3, 3, 4]], "keys": [[4], [5, 5], [8]]}
WORST: dict[Format, float] = {"float32": 0.0, "float16": 1e-3, "int8": 0.01, "int4": 0.15}
BUILDS: list[Build] = [collisionless, hashed, static]


@pytest.mark.parametrize("build", BUILDS)
@pytest.mark.parametrize("format", list(WORST))
@pytest.mark.parametrize("pooling", [PoolingType.MEAN, PoolingType.SUM])
def test_bags_differ_only_by_the_rounding_error_of_the_format(build: Build, format: Format, pooling: PoolingType) -> None:
    bags = trained(build, pooling)
    wanted = bags(features_of(BATCH))
    quantised, tables = quantise_bags(bags, format)
    found = quantised(features_of(BATCH))
    assert found.keys() == wanted.keys()
    scale = wanted.values().abs().max()
    assert (found.values() - wanted.values()).abs().max() <= max(WORST[format] * 3 * scale, 1e-6)
    assert set(tables) == set(NAMES)
    for table in tables.values():
        assert table.rms_error <= WORST[format] and (table.rms_error > 0) is (format != "float32")
        assert table.rms_error <= table.largest_error <= 4 * WORST[format]
        assert table.nbytes / table.before == {"float32": 1, "float16": 1 / 2, "int8": 1 / 2, "int4": 3 / 8}[format]  # D = 4


@pytest.mark.parametrize("format", list(WORST))
def test_reported_errors_equal_the_errors_of_lookups(format: Format) -> None:
    bags = trained(hashed)
    quantised, tables = quantise_bags(bags, format)
    read, weights = quantised(features_of({name: [[i] for i in range(50)] for name in NAMES})), bags.weights()
    for name in NAMES:
        off, spread = read[name] - weights[f"{name}.weight"], weights[f"{name}.weight"].square().mean().sqrt()
        assert tables[name].rms_error == pytest.approx(float(off.square().mean().sqrt() / spread), abs=1e-6)
        assert tables[name].largest_error == pytest.approx(float(off.abs().max() / spread), abs=1e-6)


@pytest.mark.parametrize("format", list(WORST))
def test_a_table_without_rows_has_no_weights_whatever_its_strides(format: Format) -> None:
    packed = torch.empty(0, dtype=torch.uint8).as_strided((0, row_bytes(format, 16)), (0, 0))
    assert unpack(packed, format).shape == (0, 16)


def test_ids_without_a_row_read_zeros() -> None:
    quantised, _ = quantise_bags(trained(collisionless), "int8")
    out = quantised(features_of({"type": [[10**12, -(2**63)], [2]], "keys": [[77], [78]]}))
    assert not out["type"][0].any() and not out["keys"].any() and out["type"][1].any()


@pytest.mark.parametrize("build", BUILDS)
def test_ids_outside_the_vocabulary_read_the_same_as_before(build: Build) -> None:
    """They are out of vocabulary, hashed, or have no row, and some share a bag with known ids."""
    bags = trained(build)
    batch = features_of({"type": [[10**12, 3], [-3]], "keys": [[-1, 5, 50], [50]]})
    torch.testing.assert_close(quantise_bags(bags, "float32")[0](batch).values(), bags(batch).values())


@pytest.mark.parametrize("format", list(WORST))
def test_a_table_without_rows_reads_zeros_and_an_empty_batch_has_no_bags(format: Format) -> None:
    quantised, tables = quantise_bags(collisionless(configs_of()).eval(), format)
    assert not quantised(features_of(BATCH)).values().any()
    assert quantised(features_of({"type": [], "keys": []})).values().shape == (0, 8)
    assert {table.rows for table in tables.values()} == {0}


@pytest.mark.parametrize("build", BUILDS)
def test_restored_tables_are_equal_bit_for_bit(build: Build) -> None:
    bags = trained(build)
    quantised, _ = quantise_bags(bags, "int8", {"keys": "float16"})
    assert quantised.about()["formats"] == {"type": "int8", "keys": "float16"}
    back = QuantisedBags.restored(bags, quantised.about(), quantised.tensors())
    batch = features_of({"type": [[2, 77], [3]], "keys": [[-1], [4, 5]]})
    assert torch.equal(back(batch).values(), quantised(batch).values())
    assert {c.name: c.num_embeddings for c in back.embedding_bag_configs()} == {
        name: len(bags.weights()[f"{name}.weight"]) for name in NAMES
    }


def test_tables_with_one_weight_per_id_are_float16() -> None:
    assert [fitting(format, 1) for format in WORST] == ["float32", "float16", "float16", "float16"]
    assert all(fitting(format, dim) == format for format in WORST for dim in (4, 16, 1024))
    assert [row_bytes(format, 16) for format in WORST] == [64, 32, 20, 12]
    config = EmbeddingBagConfig(name="t", embedding_dim=1, num_embeddings=1, feature_names=["t"])
    bags = CollisionlessEmbeddingBags([config], lr=0.1, init_scale=0.3)
    batch = features_of({"t": [[1], [2], [1, 3]]})
    bags(batch)
    wanted = bags.eval()(batch).values()
    torch.testing.assert_close(quantise_bags(bags, "int8")[0](batch).values(), wanted, rtol=0, atol=2e-4)  # 0.3 / 2^11


def table_of(weights: torch.Tensor) -> TrainableBags:
    config = EmbeddingBagConfig(name="t", embedding_dim=weights.shape[1], num_embeddings=len(weights), feature_names=["t"])
    bags = StaticEmbeddingBags([config], init_scale=1, lr=0.1, eps=1e-8, initial_accumulator=0, seed=0)
    bags.weights()["t.weight"].copy_(weights)
    return bags.eval()


@pytest.mark.parametrize("size", [1e-5, 1e-4, 1e-3, 1, 6e4])
@pytest.mark.parametrize(("format", "worst"), [("int8", 0.006), ("int4", 0.07)])
def test_the_relative_error_does_not_depend_on_the_size_of_weights(size: float, format: Format, worst: float) -> None:
    weights = (torch.rand(500, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1) * size
    assert quantise_bags(table_of(weights), format)[1]["t"].rms_error < worst


def test_rows_far_from_zero_keep_their_precision() -> None:
    weights = 5 + 0.01 * torch.rand(500, 16, generator=torch.Generator().manual_seed(0))
    largest = quantise_bags(table_of(weights), "int8")[1]["t"].largest_error * 5
    assert largest < 1e-4, "rounding the shift to float16 alone changes it by up to 0.002"


@pytest.mark.parametrize("format", ["float16", "int8", "int4"])
def test_a_table_with_weights_outside_the_range_of_float16_stays_float32(format: Format) -> None:
    weights = torch.randn(9, 8, generator=torch.Generator().manual_seed(0))
    weights[5, 3] = 70_000
    bags, batch = table_of(weights), features_of({"t": [[5, 6], [7]]})
    quantised, tables = quantise_bags(bags, format)
    assert tables["t"].format == "float32" and tables["t"].largest_error == 0
    torch.testing.assert_close(quantised(batch).values(), bags(batch).values())


@pytest.mark.parametrize("dim", [3, 5, 6, 7, 10])
def test_int8_replaces_int4_where_fbgemm_does_not_support_it(dim: int) -> None:
    config = EmbeddingBagConfig(name="t", embedding_dim=dim, num_embeddings=1, feature_names=["t"])
    bags, batch = CollisionlessEmbeddingBags([config], lr=0.1, init_scale=0.3), features_of({"t": [[5, 6], [7]]})
    bags(batch)
    bags.eval()
    quantised, tables = quantise_bags(bags, "int4")
    assert tables["t"].format == ("float16" if dim == 3 else "int8")
    torch.testing.assert_close(quantised(batch).values(), bags(batch).values(), rtol=0.02, atol=0.02)


def test_weights_per_sample_are_refused() -> None:
    plain = features_of(BATCH)
    weighted = KeyedJaggedTensor(plain.keys(), plain.values(), weights=torch.ones(len(plain.values())), lengths=plain.lengths())
    with pytest.raises(ValueError, match="weights per sample"):
        quantise_bags(trained(hashed), "int8")[0](weighted)


def test_compositional_and_weighted_tables_are_refused() -> None:
    with pytest.raises(TypeError, match="CompositionalEmbeddingBags cannot be quantised"):
        quantise_bags(trained(compositional), "int8")
    weighted: TrainableBags = CollisionlessEmbeddingBags(configs_of(), lr=0.1, init_scale=0.3, weighted=True)
    with pytest.raises(ValueError, match="weights per sample"):
        quantise_bags(weighted, "int8")


def test_quantising_a_model_preserves_logits_and_skips_compositional_tables() -> None:
    schema = FeatureSchema(("x",), ("a", "b", "c"), ("m",), "f")
    tables = {"b": {"kind": "hashed", "rows": 64}, "c": {"kind": "compositional", "rows": 90, "universe": 100}}
    recipe = load_recipe("dlrm", {"tables": {"features": tables, "init_scale": 0.5}})
    model, dense = build_model(recipe, schema), torch.randn(3, 1)
    features = features_of({"a": [[1], [2], [3]], "b": [[4], [5], [6]], "c": [[7], [8], [9]], "m": [[1, 2], [3], [4]]})
    model(dense, features).sum().backward()
    model.eval()
    wanted = model(dense, features)
    assert set(quantise_tables(model, "int8")) == {"a", "b", "m"}
    torch.testing.assert_close(model(dense, features), wanted, rtol=0.02, atol=0.02)


def grown(rows: int) -> CollisionlessEmbeddingBags:
    config = EmbeddingBagConfig(name="t", embedding_dim=16, num_embeddings=1, feature_names=["t"])
    bags = CollisionlessEmbeddingBags([config], lr=0.1, init_scale=0.3)
    bags(features_of({"t": [list(range(rows))]})).values().sum().backward()
    return bags


def test_rows_of_deleted_ids_are_reused() -> None:
    bags = grown(1000)
    quantised, _ = quantise_bags(bags, "int8")
    before = quantised.nbytes
    for now in range(1, 6):
        bags.store.delete_rows(bags.store.rows_of(0)[:900])
        bags(features_of({"t": [list(range(10_000 * now, 10_000 * now + 900))]})).values().sum().backward()
        quantised.apply_delta(bags.delta(quantised.step))
    # The segments of the map that the new ids fall into may be larger, the rows are not.
    assert before <= quantised.nbytes < 1.2 * before and quantised.embedding_bag_configs()[0].num_embeddings == 1000


def test_a_table_grows_without_moving_rows_until_its_room_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(growing_memory, "_ROOMS", ((2, 4096),))
    packed = [torch.randint(0, 255, (rows, 20), dtype=torch.uint8) for rows in (4, 3, 0)]
    tables = PackedTables([16] * 3, ["int8"] * 3, packed, torch.arange(3), mean=True)
    address = tables.rows(0).ctypes.data
    tables.reserve(0, 9)
    tables.reserve(2, 2)
    assert tables.capacities == [9, 3, 2] and tables.nbytes == 14 * 20
    tables.reserve(0, 4096 // 20)
    assert tables.rows(0).ctypes.data == address
    tables.reserve(0, 4096 // 20 + 1)
    assert tables.rows(0).ctypes.data != address
    for number, rows in enumerate(packed):
        assert np.array_equal(tables.rows(number)[: len(rows)], rows.numpy())
    tables.rows(0)[-1] = 1
    assert np.array_equal(tables.rows(1)[:3], packed[1].numpy())


def test_an_address_range_that_the_system_refuses_is_replaced_by_a_smaller_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(growing_memory, "_ROOMS", ((1, 1 << 60), (2, 4096)))
    assert GrowingMemory([100, 5000]).rooms == [4096, 12288]
    monkeypatch.setattr(growing_memory, "_ROOMS", ((1, 1 << 60),))
    with pytest.raises(MemoryError, match="no address range for 5100 bytes"):
        GrowingMemory([100, 5000])


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="reads the peak of memory from /proc")
def test_growing_needs_no_second_copy_of_the_rows() -> None:
    """Measures the peak memory of a new process while a table of 200 MB grows."""
    code = """
import torch
from ml.embeddings.inference import growing_memory
from ml.embeddings.inference.growing_memory import GrowingMemory
from ml.embeddings.inference.pack import unpack
from ml.embeddings.inference.packed_tables import PackedTables
def status(name):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(name)) * 1024
rows = 10_000_000
tables = PackedTables([16], ["int8"], [torch.ones(rows, 20, dtype=torch.uint8)], torch.arange(1), mean=True)
before = status("VmRSS")
open("/proc/self/clear_refs", "w").write("5")
tables.reserve(0, rows + 1)
print((status("VmHWM") - before) / (20 * rows))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert float(done.stdout) < 0.2


def test_a_delta_with_weights_outside_the_range_of_float16_is_refused() -> None:
    bags = table_of(torch.randn(9, 8, generator=torch.Generator().manual_seed(0)))
    quantised, _ = quantise_bags(bags, "int8")
    bags.train()(features_of({"t": [[5]]})).values().sum().backward()
    bags.weights()["t.weight"][5, 3] = 70_000
    before = quantised.tensors()
    with pytest.raises(ValueError, match="'t' is int8, the delta has weights outside the range of float16: export the model"):
        quantised.apply_delta(bags.delta(0))
    assert all(torch.equal(tensor, before[name]) for name, tensor in quantised.tensors().items())
    exact, _ = quantise_bags(table_of(torch.zeros(9, 8)), "float32")
    assert exact.apply_delta(bags.delta(0))


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda bags: pickle.loads(pickle.dumps(bags))])
def test_a_copy_of_quantised_tables_is_independent(copied: Callable[[QuantisedBags], QuantisedBags]) -> None:
    bags = grown(10)
    quantised, _ = quantise_bags(bags, "int8")
    other = copied(quantised)
    bags(features_of({"t": [[3, 77]]})).values().sum().backward()
    quantised.apply_delta(bags.delta(0))
    batch = features_of({"t": [[3], [77]]})
    assert not other(batch)["t"][1].any() and quantised(batch)["t"][1].any()
    assert other.apply_delta(bags.delta(0)) and torch.equal(other(batch).values(), quantised(batch).values())
