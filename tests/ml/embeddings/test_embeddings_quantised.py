"""Tables in fewer bits read what the trained ones read, but for what the bits cost."""

from __future__ import annotations

import pytest
import torch
from test_embeddings_face import NAMES, Build, collisionless, configs_of, features_of, hashed, static, trained
from torchrec.modules.embedding_configs import PoolingType

from ml.embeddings.quantised import Bits, QuantisedBags, quantise_tables
from ml.features.schema import FeatureSchema
from ml.models.build import build_model
from ml.recipes.recipe import load_recipe

BATCH = {"type": [[2, 9], [], [3, 3, 4]], "keys": [[4], [5, 5], [8]]}
WORST: dict[Bits, float] = {"fp32": 0.0, "fp16": 1e-3, "int8": 0.01, "int4": 0.15}


@pytest.mark.parametrize("build", [collisionless, hashed, static])
@pytest.mark.parametrize("bits", list(WORST))
@pytest.mark.parametrize("pooling", [PoolingType.MEAN, PoolingType.SUM])
def test_bags_are_what_they_were_but_for_what_the_bits_cost(build: Build, bits: Bits, pooling: PoolingType) -> None:
    bags = trained(build, pooling)
    wanted = bags(features_of(BATCH))
    quantised = QuantisedBags(bags, bits)
    found = quantised(features_of(BATCH))
    assert found.keys() == wanted.keys()
    scale = wanted.values().abs().max()
    assert (found.values() - wanted.values()).abs().max() <= max(WORST[bits] * 3 * scale, 1e-6)
    assert set(quantised.losses) == set(NAMES)
    for loss in quantised.losses.values():
        assert loss.error <= WORST[bits] and (loss.error > 0) is (bits != "fp32")
        assert loss.nbytes / loss.before == {"fp32": 1, "fp16": 1 / 2, "int8": 1 / 2, "int4": 3 / 8}[bits]  # D = 4


def test_ids_without_a_row_read_zeros() -> None:
    quantised = QuantisedBags(trained(collisionless), "int8")
    out = quantised(features_of({"type": [[10**12, -(2**63)], [2]], "keys": [[77], [78]]}))
    assert not out["type"][0].any() and not out["keys"].any() and out["type"][1].any()


def test_what_is_out_of_vocabulary_reads_its_row_and_hashes_theirs() -> None:
    for build in (static, hashed):
        bags = trained(build)
        batch = features_of({"type": [[10**12], [-3]], "keys": [[-1], [50]]})
        torch.testing.assert_close(QuantisedBags(bags, "fp32")(batch).values(), bags(batch).values())


def test_a_table_without_rows_is_all_zeros() -> None:
    quantised = QuantisedBags(collisionless(configs_of()).eval(), "int4")
    assert not quantised(features_of(BATCH)).values().any()


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
