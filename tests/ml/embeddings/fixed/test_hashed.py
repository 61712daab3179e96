"""Hashed tables compared with plain torch: pooling, updates, key order and reproducibility."""

from __future__ import annotations

import pytest
import torch
from torchrec.modules.embedding_configs import EmbeddingBagConfig, PoolingType
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from ml.embeddings.fixed.hashed import HashedEmbeddingBags

SIZES = {"a": 10, "b": 50, "c": 7}


def make_bags(lr: float = 0.1, accumulator: float = 0.0, eps: float = 1e-8, seed: int = 0) -> HashedEmbeddingBags:
    mean = PoolingType.MEAN
    tables = [
        EmbeddingBagConfig(name=k, embedding_dim=4, num_embeddings=n, feature_names=[k], pooling=mean) for k, n in SIZES.items()
    ]
    return HashedEmbeddingBags(tables, init_scale=0.5, lr=lr, eps=eps, initial_accumulator=accumulator, seed=seed)


def make_features(keys: str = "abc", values: tuple[list[int], ...] = ([0, 3, 3], [1, 49, 2], [6, 5, 4])) -> KeyedJaggedTensor:
    return KeyedJaggedTensor(list(keys), torch.tensor(values).flatten(), lengths=torch.ones(3 * len(keys), dtype=torch.int32))


def test_a_bag_is_the_mean_of_its_rows_and_an_empty_bag_is_zero() -> None:
    bags = make_bags()
    features = KeyedJaggedTensor(["a", "b", "c"], torch.tensor([2, 3, 0, 0, 1, 1, 6]), lengths=torch.tensor([2, 1, 3, 0, 0, 1]))
    pooled, tables = bags(features).to_dict(), bags.weights()
    torch.testing.assert_close(pooled["a"], torch.stack([tables["a.weight"][[2, 3]].mean(0), tables["a.weight"][0]]))
    torch.testing.assert_close(pooled["b"], torch.stack([tables["b.weight"][[0, 1, 1]].mean(0), torch.zeros(4)]))


def test_backward_is_row_wise_adagrad_on_the_sum_of_a_rows_gradients() -> None:
    """The expected update is accumulator += mean(g^2), w -= lr g / (sqrt(accumulator) + eps)."""
    bags = make_bags(lr=0.3, accumulator=0.25, eps=1e-3)
    before = {name: weight.clone() for name, weight in bags.weights().items()}
    scale = torch.arange(12.0).reshape(3, 4)
    (bags(make_features())["a"] * scale).sum().backward()
    gradient = {0: scale[0], 3: scale[1] + scale[2]}
    for row, g in gradient.items():
        accumulator = 0.25 + g.square().mean()
        torch.testing.assert_close(bags.training_state()["a.accumulator"][row], accumulator)
        torch.testing.assert_close(
            bags.weights()["a.weight"][row], before["a.weight"][row] - 0.3 * g / (accumulator.sqrt() + 1e-3)
        )
    untouched = [row for row in range(10) if row not in gradient]
    assert torch.equal(bags.weights()["a.weight"][untouched], before["a.weight"][untouched])


def test_the_learning_rate_can_change_from_step_to_step() -> None:
    bags = make_bags()
    moved = []
    for lr in (0.1, 0.2, 0.0):
        before = bags.weights()["a.weight"].clone()
        bags.set_learning_rate(lr)
        bags.training_state()["a.accumulator"].zero_()
        bags(make_features())["a"].sum().backward()
        moved.append(float((before - bags.weights()["a.weight"]).abs().max()))
    assert moved == pytest.approx([0.1, 0.2, 0.0], abs=1e-5)


def test_keys_can_have_any_order_and_extra_keys_are_ignored() -> None:
    bags = make_bags()
    wanted = bags(make_features())
    shuffled = bags(make_features("xcab", ([9, 9, 9], [6, 5, 4], [0, 3, 3], [1, 49, 2])))
    assert shuffled.keys() == wanted.keys() == ["a", "b", "c"]
    assert torch.equal(shuffled.values(), wanted.values())
    with pytest.raises(KeyError, match=r"\['b'\] are not in the batch, which has \['a', 'c'\]"):
        bags(make_features("ac", ([0, 3, 3], [6, 5, 4])))


def test_touched_rows_are_the_rows_looked_up_in_training_since_the_pass_began() -> None:
    bags = make_bags()
    bags.eval()
    bags(make_features())
    assert bags.rows_touched() == 0
    bags.train()
    bags(make_features())
    bags(make_features())
    assert bags.rows_touched() == 2 + 3 + 3
    bags.begin_pass()
    assert bags.rows_touched() == 0


def test_the_same_seed_gives_the_same_tables() -> None:
    one, same, other = (torch.cat(list(make_bags(seed=seed).part_weights().values())) for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert one.abs().max() <= 0.5
    assert abs(float(one.mean())) < 0.1


def test_a_table_with_several_features_is_refused() -> None:
    table = EmbeddingBagConfig(name="t", embedding_dim=4, num_embeddings=10, feature_names=["f", "g"])
    with pytest.raises(ValueError, match="one table per feature"):
        HashedEmbeddingBags([table], init_scale=0.1, lr=0.1, eps=1e-8, initial_accumulator=0, seed=0)
