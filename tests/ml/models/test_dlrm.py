"""The model's shapes, and that it reads features by name; its interaction against TorchRec's."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torchrec.models.dlrm import DLRM as TorchRecDLRM
from torchrec.models.dlrm import InteractionArch as TorchRecInteractionArch
from torchrec.modules.embedding_configs import EmbeddingBagConfig
from torchrec.modules.embedding_modules import EmbeddingBagCollection
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor, KeyedTensor

from ml.models.build import build_model
from ml.models.dlrm import DLRM, DotInteraction
from ml.recipes.recipe import Recipe, load_recipe
from ml.schema import FeatureSchema

B = 5


def small_recipe(**model: object) -> Recipe:
    small = {"embedding_dim": 4, "bottom": [8], "top": [8]}
    return load_recipe(
        "dlrm", {"model": {**small, **model}, "tables": {"default": {"kind": "hashed", "rows": 64}, "init_scale": 0.5}}
    )


def make_features(schema: FeatureSchema, order: list[str] | None = None) -> KeyedJaggedTensor:
    """Derive the ids of each feature from its name, so that another order of keys gives the same data."""
    keys = order or list(schema.sparse)
    lengths = {k: torch.tensor([1] * B if k in schema.single else [3, 1, 2, 1, 4], dtype=torch.int32) for k in keys}
    values = {k: torch.arange(int(lengths[k].sum())) * 7_919 * (1 + schema.sparse.index(k)) - 3 for k in keys}
    return KeyedJaggedTensor(keys, torch.cat([values[k] for k in keys]), lengths=torch.cat([lengths[k] for k in keys]))


def test_features_are_read_by_name_in_whatever_order_they_come() -> None:
    schema = FeatureSchema(("x",), ("a", "b", "c"), ("m",), "f")
    model = build_model(small_recipe(), schema).eval()
    dense = torch.randn(B, 1)
    wanted = model(dense, make_features(schema))
    assert torch.equal(wanted, model(dense, make_features(schema, ["m", "c", "a", "b"])))
    bags = model.sparse_arch.embedding_bag_collection

    def shuffled(module: nn.Module, args: object, output: KeyedTensor) -> KeyedTensor:
        keys = ["c", "m", "b", "a"]
        return KeyedTensor(keys, [4] * 4, torch.cat([output[key] for key in keys], dim=1))

    bags.register_forward_hook(shuffled)  # what a sharded collection does under another plan
    assert torch.equal(wanted, model(dense, make_features(schema)))


def test_interaction_gives_the_numbers_of_torchrec() -> None:
    dense, sparse = torch.randn(B, 6), torch.randn(B, 7, 6)
    torch.testing.assert_close(DotInteraction(7, 6)(dense, sparse), TorchRecInteractionArch(7)(dense, sparse))


def test_without_the_shortcut_it_is_torchrecs_dlrm() -> None:
    """The same weights in TorchRec's model and in ours give the same logits."""
    configs = [EmbeddingBagConfig(name=k, embedding_dim=4, num_embeddings=40, feature_names=[k]) for k in "ab"]
    theirs = TorchRecDLRM(EmbeddingBagCollection(tables=configs), 3, [8, 4], [8, 1])
    ours = DLRM(EmbeddingBagCollection(tables=configs), 3, [8], [8])
    ours.load_state_dict(dict(zip(ours.state_dict(), theirs.state_dict().values(), strict=True)))
    features = KeyedJaggedTensor(["a", "b"], torch.randint(0, 40, (2 * B,)), lengths=torch.ones(2 * B, dtype=torch.int32))
    dense = torch.randn(B, 3)
    torch.testing.assert_close(ours(dense, features), theirs(dense, features).squeeze(1))


def test_the_same_recipe_and_schema_give_the_same_model_and_leave_the_random_state_alone() -> None:
    schema = FeatureSchema(("x",), ("a", "b"), (), "f")
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one, same = build_model(small_recipe(), schema).eval(), build_model(small_recipe(), schema).eval()
    assert torch.equal(torch.get_rng_state(), before)
    dense = torch.randn(B, 1)
    assert torch.equal(one(dense, make_features(schema)), same(dense, make_features(schema)))


def test_a_size_for_a_feature_that_is_not_there_is_refused() -> None:
    recipe = load_recipe("dlrm", {"tables": {"features": {"nobody": {"kind": "hashed", "rows": 100}}}})
    with pytest.raises(ValueError, match=r"tables\.features: \['nobody'\] not among"):
        build_model(recipe, FeatureSchema((), ("a",), (), "f"))
