"""Tables in fewer bits read what the trained ones read, but for what the bits cost."""

from __future__ import annotations

import pytest
import torch
from torchrec.modules.embedding_configs import EmbeddingBagConfig, PoolingType
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from ml.embeddings.collisionless.bags import CollisionlessEmbeddingBags
from ml.embeddings.fixed.static import StaticEmbeddingBags
from ml.embeddings.inference.formats import Format, fitting, row_bytes
from ml.embeddings.inference.quantised import QuantisedBags, quantise_bags, quantise_tables
from ml.embeddings.interface import TrainableBags
from ml.models.build import build_model
from ml.recipes.recipe import load_recipe
from ml.schema import FeatureSchema
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
@pytest.mark.parametrize("held_as", list(WORST))
@pytest.mark.parametrize("pooling", [PoolingType.MEAN, PoolingType.SUM])
def test_bags_are_what_they_were_but_for_what_the_bits_cost(build: Build, held_as: Format, pooling: PoolingType) -> None:
    bags = trained(build, pooling)
    wanted = bags(features_of(BATCH))
    quantised, tables = quantise_bags(bags, held_as)
    found = quantised(features_of(BATCH))
    assert found.keys() == wanted.keys()
    scale = wanted.values().abs().max()
    assert (found.values() - wanted.values()).abs().max() <= max(WORST[held_as] * 3 * scale, 1e-6)
    assert set(tables) == set(NAMES)
    for table in tables.values():
        assert table.rms_error <= WORST[held_as] and (table.rms_error > 0) is (held_as != "float32")
        assert table.rms_error <= table.largest_error <= 4 * WORST[held_as]
        assert table.nbytes / table.before == {"float32": 1, "float16": 1 / 2, "int8": 1 / 2, "int4": 3 / 8}[held_as]  # D = 4


@pytest.mark.parametrize("held_as", list(WORST))
def test_errors_are_of_what_is_read(held_as: Format) -> None:
    bags = trained(hashed)
    quantised, tables = quantise_bags(bags, held_as)
    read, weights = quantised(features_of({name: [[i] for i in range(50)] for name in NAMES})), bags.weights()
    for name in NAMES:
        off, spread = read[name] - weights[f"{name}.weight"], weights[f"{name}.weight"].square().mean().sqrt()
        assert tables[name].rms_error == pytest.approx(float(off.square().mean().sqrt() / spread), abs=1e-6)
        assert tables[name].largest_error == pytest.approx(float(off.abs().max() / spread), abs=1e-6)


def test_ids_without_a_row_read_zeros() -> None:
    quantised, _ = quantise_bags(trained(collisionless), "int8")
    out = quantised(features_of({"type": [[10**12, -(2**63)], [2]], "keys": [[77], [78]]}))
    assert not out["type"][0].any() and not out["keys"].any() and out["type"][1].any()


@pytest.mark.parametrize("build", BUILDS)
def test_strange_ids_read_what_they_read_before(build: Build) -> None:
    """Out of vocabulary, hashed, or unknown: also in bags with known ones, whose mean they are part of."""
    bags = trained(build)
    batch = features_of({"type": [[10**12, 3], [-3]], "keys": [[-1, 5, 50], [50]]})
    torch.testing.assert_close(quantise_bags(bags, "float32")[0](batch).values(), bags(batch).values())


@pytest.mark.parametrize("held_as", list(WORST))
def test_a_table_without_rows_is_all_zeros_and_an_empty_batch_has_no_bags(held_as: Format) -> None:
    quantised, tables = quantise_bags(collisionless(configs_of()).eval(), held_as)
    assert not quantised(features_of(BATCH)).values().any()
    assert quantised(features_of({"type": [], "keys": []})).values().shape == (0, 8)
    assert {table.rows for table in tables.values()} == {0}


@pytest.mark.parametrize("build", BUILDS)
def test_what_was_written_down_is_read_back_bit_for_bit(build: Build) -> None:
    bags = trained(build)
    quantised, _ = quantise_bags(bags, "int8", {"keys": "float16"})
    assert quantised.about()["formats"] == {"type": "int8", "keys": "float16"}
    back = QuantisedBags.restored(bags, quantised.about(), quantised.tensors())
    batch = features_of({"type": [[2, 77], [3]], "keys": [[-1], [4, 5]]})
    assert torch.equal(back(batch).values(), quantised(batch).values())
    assert {c.name: c.num_embeddings for c in back.embedding_bag_configs()} == {
        name: len(bags.weights()[f"{name}.weight"]) for name in NAMES
    }


def test_a_weight_an_id_is_held_as_float16_where_steps_would_take_more() -> None:
    assert [fitting(held_as, 1) for held_as in WORST] == ["float32", "float16", "float16", "float16"]
    assert all(fitting(held_as, dim) == held_as for held_as in WORST for dim in (4, 16, 1024))
    assert [row_bytes(held_as, 16) for held_as in WORST] == [64, 32, 20, 12]
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
@pytest.mark.parametrize(("held_as", "worst"), [("int8", 0.006), ("int4", 0.07)])
def test_steps_are_of_the_scale_that_is_read_however_small_weights_are(size: float, held_as: Format, worst: float) -> None:
    weights = (torch.rand(500, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1) * size
    assert quantise_bags(table_of(weights), held_as)[1]["t"].rms_error < worst


def test_steps_lie_within_a_row_that_is_far_from_zero() -> None:
    weights = 5 + 0.01 * torch.rand(500, 16, generator=torch.Generator().manual_seed(0))
    largest = quantise_bags(table_of(weights), "int8")[1]["t"].largest_error * 5
    assert largest < 1e-4, "a shift of float16 alone is off by up to 0.002"


@pytest.mark.parametrize("held_as", ["float16", "int8", "int4"])
def test_a_table_with_weights_beyond_float16_stays_as_it_is(held_as: Format) -> None:
    weights = torch.randn(9, 8, generator=torch.Generator().manual_seed(0))
    weights[5, 3] = 70_000
    bags, batch = table_of(weights), features_of({"t": [[5, 6], [7]]})
    quantised, tables = quantise_bags(bags, held_as)
    assert tables["t"].held_as == "float32" and tables["t"].largest_error == 0
    torch.testing.assert_close(quantised(batch).values(), bags(batch).values())


@pytest.mark.parametrize("dim", [3, 5, 6, 7, 10])
def test_rows_that_fbgemm_does_not_read_in_four_bits_have_eight(dim: int) -> None:
    config = EmbeddingBagConfig(name="t", embedding_dim=dim, num_embeddings=1, feature_names=["t"])
    bags, batch = CollisionlessEmbeddingBags([config], lr=0.1, init_scale=0.3), features_of({"t": [[5, 6], [7]]})
    bags(batch)
    bags.eval()
    quantised, tables = quantise_bags(bags, "int4")
    assert tables["t"].held_as == ("float16" if dim == 3 else "int8")
    torch.testing.assert_close(quantised(batch).values(), bags(batch).values(), rtol=0.02, atol=0.02)


def test_weights_per_sample_are_refused() -> None:
    plain = features_of(BATCH)
    weighted = KeyedJaggedTensor(plain.keys(), plain.values(), weights=torch.ones(len(plain.values())), lengths=plain.lengths())
    with pytest.raises(ValueError, match="weights per sample"):
        quantise_bags(trained(hashed), "int8")[0](weighted)


def test_tables_made_of_several_rows_and_bags_that_are_weighted_are_refused() -> None:
    with pytest.raises(TypeError, match="CompositionalEmbeddingBags has no rows to quantise"):
        quantise_bags(trained(compositional), "int8")
    weighted: TrainableBags = CollisionlessEmbeddingBags(configs_of(), lr=0.1, init_scale=0.3, weighted=True)
    with pytest.raises(ValueError, match="weights per sample"):
        quantise_bags(weighted, "int8")


def test_a_model_keeps_its_logits_and_its_compositional_tables() -> None:
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
