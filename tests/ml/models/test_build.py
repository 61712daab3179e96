"""Every kind of model, from its recipe: shapes for every mix of features, gradients everywhere, and each paper's formula."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torchrec.modules.embedding_configs import EmbeddingBagConfig
from torchrec.modules.embedding_modules import EmbeddingBagCollection
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from ml.embeddings.interface import bags_of, dense_parameters
from ml.models.build import build_model
from ml.models.crosses import with_crosses
from ml.models.dcn import CrossLayer
from ml.models.deepfm import DeepFM
from ml.models.mlp import MLP
from ml.models.wide_deep import WideDeep
from ml.recipes.recipe import load_recipe
from ml.schema import FeatureSchema

B = 5
KINDS: list[tuple[str, dict[str, Any]]] = [
    ("dlrm", {"bottom": [8], "top": [8]}),
    ("dlrm", {"bottom": [8], "top": [8], "linear_shortcut": False, "interaction": "cat"}),
    ("wide_deep", {"deep": [8]}),
    ("deepfm", {"deep": [8, 4], "dropout": 0.5}),
    ("dcn_v2", {"deep": [8], "low_rank": None}),
    ("dcn_v2", {"deep": [8], "low_rank": 2, "structure": "stacked"}),
]
SCHEMAS = [
    FeatureSchema(("x", "y"), ("a", "b", "c"), (), "f"),
    FeatureSchema(("x",), ("a",), ("m", "n"), "f"),
    FeatureSchema((), ("a", "b"), ("m",), "f"),
    FeatureSchema((), (), ("m",), "f"),
    FeatureSchema((), ("a",), (), "f"),
]


def features_of(schema: FeatureSchema, scale: int = 1) -> KeyedJaggedTensor:
    lengths = torch.cat([torch.tensor([1] * B if k in schema.single else [3, 1, 2, 1, 4]) for k in schema.sparse])
    ids = torch.arange(int(lengths.sum())) * 7919 * scale - 3
    return KeyedJaggedTensor(list(schema.sparse), ids, lengths=lengths.int(), stride=B)


@pytest.mark.parametrize(("kind", "sizes"), KINDS)
@pytest.mark.parametrize("schema", SCHEMAS)
def test_logits_and_gradients_for_every_mix_of_features(schema: FeatureSchema, kind: str, sizes: dict[str, Any]) -> None:
    recipe = load_recipe(kind, {"model": {"embedding_dim": 4, **sizes}, "tables": {"init_scale": 0.5}})
    model = build_model(recipe, schema)
    logits = model(torch.randn(B, len(schema.dense)), features_of(schema))
    assert logits.shape == (B,) and logits.dtype == torch.float32
    before = {path: bags.weights() for path, bags in bags_of(model).items()}
    logits.sum().backward()
    parameters = dict(dense_parameters(model))
    assert parameters and {n for n, p in parameters.items() if p.grad is not None} == set(parameters)
    for path, bags in bags_of(model).items():
        moved = bags.weights()
        for name, held in before[path].items():
            if name.endswith(".weight"):
                assert not torch.equal(held, moved[name]), (path, name)


@pytest.mark.parametrize(("kind", "sizes"), KINDS)
def test_both_kinds_of_features_matter(kind: str, sizes: dict[str, Any]) -> None:
    schema = SCHEMAS[0]
    recipe = load_recipe(kind, {"model": {"embedding_dim": 4, **sizes}, "tables": {"init_scale": 0.5}})
    model = build_model(recipe, schema).train()
    for scale in (1, 2):  # ids have rows
        model(torch.zeros(B, 2), features_of(schema, scale)).sum().backward()
    model.eval()
    one = model(torch.zeros(B, 2), features_of(schema))
    assert not torch.allclose(one, model(10 * torch.ones(B, 2), features_of(schema)))
    assert not torch.allclose(one, model(torch.zeros(B, 2), features_of(schema, 2)))


def plain(features: str, dim: int) -> EmbeddingBagCollection:
    return EmbeddingBagCollection(
        tables=[EmbeddingBagConfig(name=f, embedding_dim=dim, num_embeddings=40, feature_names=[f]) for f in features]
    )


def ids_of(features: str) -> KeyedJaggedTensor:
    count = len(features) * B
    return KeyedJaggedTensor(list(features), torch.randint(0, 40, (count,)), lengths=torch.ones(count, dtype=torch.int32))


def test_deepfm_sums_the_products_of_all_pairs() -> None:
    bags, features, dense = plain("abc", 4), ids_of("abc"), torch.randn(B, 2)
    model = DeepFM(bags, 2, [8]).eval()
    e = torch.stack([bags(features)[key] for key in "abc"], 1)
    pairs = sum((e[:, i, 1:] * e[:, j, 1:]).sum(1) for i, j in itertools.combinations(range(3), 2))
    rest = e[:, :, 0].sum(1) + model.deep(torch.cat((e.flatten(1), dense), 1)).squeeze(1) + dense @ model.linear.weight[0]
    torch.testing.assert_close(model(dense, features), rest + pairs)


@pytest.mark.parametrize("rank", [None, 3])
def test_a_cross_layer_is_the_papers_equation(rank: int | None) -> None:
    layer, x0, x = CrossLayer(6, rank), torch.randn(B, 6), torch.randn(B, 6)
    weights = [part.weight for part in layer.weight]
    product = weights[0] if rank is None else weights[1] @ weights[0]
    bias = layer.weight[-1].bias.data.normal_()
    torch.testing.assert_close(layer(x0, x), x0 * (x @ product.T + bias) + x)


def test_the_wide_part_is_a_sum_of_one_weight_an_id() -> None:
    features, dense = ids_of("ab"), torch.randn(B, 2)
    bags, wide = plain("ab", 4), plain("ab", 1)
    model = WideDeep(bags, wide, (), 2, [8]).eval()
    pooled, remembered = bags(features), wide(features)
    deep = model.deep(torch.cat((pooled["a"], pooled["b"], dense), 1))
    expected = remembered["a"] + remembered["b"] + deep + (dense @ model.linear.weight[0]).unsqueeze(1)
    torch.testing.assert_close(model(dense, features), expected.squeeze(1))


def test_crosses_tell_every_combination_apart() -> None:
    ids = torch.tensor([-(2**63), -1, 0, 1, 2, 2**62, 2**63 - 1])
    first, second = torch.cartesian_prod(ids, ids).T
    n = len(first)
    features = KeyedJaggedTensor(["a", "b"], torch.cat((first, second)), lengths=torch.ones(2 * n, dtype=torch.int32))
    crossed = with_crosses(features, [("a", "b"), ("b", "a")])
    assert crossed.keys() == ["a", "b", "a*b", "b*a"]
    assert torch.equal(crossed["a"].values(), first) and torch.equal(crossed["b"].values(), second)
    for name in ("a*b", "b*a"):
        assert len(set(crossed[name].values().tolist())) == n
    one, other = crossed["a*b"].values().view(7, 7), crossed["b*a"].values().view(7, 7)
    assert torch.equal(one, other.T) and not torch.equal(one, other)


def test_a_cross_of_what_has_many_ids_is_refused() -> None:
    recipe = load_recipe("wide_deep", {"model": {"crosses": [["a", "m"]]}})
    with pytest.raises(ValueError, match=r"model\.crosses: \['m'\] not among the single-valued"):
        build_model(recipe, FeatureSchema((), ("a",), ("m",), "f"))
    features = KeyedJaggedTensor(["a", "m"], torch.arange(5), lengths=torch.tensor([1, 1, 2, 1]))
    with pytest.raises(ValueError, match="m does not have one id in every row"):
        with_crosses(features, [("a", "m")])


@pytest.mark.parametrize(("kind", "sizes"), KINDS)
def test_another_dropout_fits_the_state_of_a_model(kind: str, sizes: dict[str, Any]) -> None:
    """`dropout` is no part of a recipe's structure, so a day can change it."""

    def state(dropout: float) -> dict[str, torch.Size]:
        recipe = load_recipe(kind, {"model": {"embedding_dim": 4, **sizes, "dropout": dropout}})
        return {name: parameter.shape for name, parameter in dense_parameters(build_model(recipe, SCHEMAS[0]))}

    assert state(0.0) == state(0.25)


def test_dropout_zeroes_outputs_of_layers_in_training_only() -> None:
    model, x = MLP(8, [64], dropout=0.5), torch.rand(B, 8)
    plain = model.eval()(x)
    dropped = model.train()(x)
    kept = dropped != 0
    torch.testing.assert_close(dropped[kept], 2 * plain[kept])
    assert (plain[~kept] > 0).any()
