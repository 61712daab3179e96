"""Compositional tables compared with plain torch: embeddings, first weights and updates."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn
from torchrec.models.dlrm import DLRM
from torchrec.modules.embedding_configs import EmbeddingBagConfig, PoolingType
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from ml.embeddings.fixed.compositional import Composition, CompositionalEmbeddingBags, mixed_dimensions
from ml.embeddings.fixed.partitions import Partitions, partitions_for
from ml.embeddings.rules import Family

DIM, LR, EPS = 16, 0.1, 1e-8
QR = partitions_for("quotient_remainder", 1000, 100)
KINDS = {
    "hash": Composition(Partitions("hash", 1000, (50,)), "add"),
    "concat": Composition(QR, "concat"),
    "add": Composition(QR, "add"),
    "mult": Composition(partitions_for("chinese_remainder", 1000, 60, 3), "mult"),
    "path": Composition(partitions_for("generalised", 1000, 60, 3), "path"),
    "project": Composition(partitions_for("naive", 1000, 1000), "project", dim=4),
}


def new_bags(
    kinds: dict[str, Composition], pooling: PoolingType = PoolingType.MEAN, scale: float = 0.5, seed: int = 0
) -> CompositionalEmbeddingBags:
    configs = [
        EmbeddingBagConfig(name=f"t_{k}", embedding_dim=DIM, num_embeddings=1, feature_names=[k], pooling=pooling)
        for k in kinds
    ]
    by_table = {f"t_{name}": kind for name, kind in kinds.items()}
    return CompositionalEmbeddingBags(configs, by_table, init_scale=scale, lr=LR, eps=EPS, initial_accumulator=0.1, seed=seed)


def batch(keys: list[str], seed: int = 0, examples: int = 30) -> KeyedJaggedTensor:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, 4, len(keys) * examples)
    return KeyedJaggedTensor(keys, torch.from_numpy(rng.integers(0, 1000, lengths.sum())), lengths=torch.from_numpy(lengths))


def by_hand(kind: Composition, parts: list[torch.Tensor], projection: torch.Tensor | None, i: int) -> torch.Tensor:
    """Compute the embedding of one id in plain torch."""
    rows = [weight[code] for weight, code in zip(parts, kind.partitions.codes(np.array([i]))[:, 0], strict=True)]
    if kind.operation == "concat":
        return torch.cat(rows)
    if projection is not None:
        return rows[0] @ projection
    found = rows[0]
    for row in rows[1:]:
        if kind.operation == "add":
            found = found + row
        elif kind.operation == "mult":
            found = found * row
        else:
            first, second, bias = (
                row[: 8 * DIM].view(8, DIM),
                row[8 * DIM : 16 * DIM].view(DIM, 8),
                row[16 * DIM : 16 * DIM + 8],
            )
            found = found + second @ torch.relu(first @ found + bias)
    return found


@pytest.mark.parametrize("pooling", [PoolingType.MEAN, PoolingType.SUM])
@pytest.mark.parametrize("name", KINDS)
def test_embeddings_and_updates_equal_plain_torch(name: str, pooling: PoolingType) -> None:
    bags, kind = new_bags({name: KINDS[name]}, pooling), KINDS[name]
    features = batch([name])
    parts = [weight.clone().requires_grad_() for weight in bags.part_weights().values()]
    projections = [p.detach().clone().requires_grad_() for _, p in bags.dense_parameters()]
    projection = projections[0] if projections else None
    jagged = features[name]
    expected = []
    for ids in jagged.to_dense():
        embedded = [by_hand(kind, parts, projection, int(i)) for i in ids]
        total = torch.stack(embedded).sum(0) if embedded else torch.zeros(DIM)
        expected.append(total / len(ids) if pooling == PoolingType.MEAN and len(ids) else total)
    wanted = torch.stack(expected)
    got = bags(features)[name]
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)
    grad = torch.randn(wanted.shape, generator=torch.Generator().manual_seed(1))
    got.backward(grad)
    wanted.backward(grad)
    for part, weight in zip(parts, bags.part_weights().values(), strict=True):
        assert part.grad is not None
        sums = 0.1 + part.grad.square().mean(1, keepdim=True)
        torch.testing.assert_close(weight, part.detach() - LR * part.grad / (sums.sqrt() + EPS), rtol=2e-3, atol=2e-4)
    for (_, own), other in zip(bags.dense_parameters(), projections, strict=True):
        torch.testing.assert_close(own.grad, other.grad, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", KINDS)
def test_first_embeddings_have_the_variance_of_a_plain_table(name: str) -> None:
    scale = 0.5
    stds, means = [], []
    for seed in range(20):
        bags = new_bags({name: KINDS[name]}, scale=scale, seed=seed).eval()
        features = KeyedJaggedTensor([name], torch.arange(1000), lengths=torch.ones(1000, dtype=torch.int64))
        out = bags(features)[name].detach()
        stds.append(out.std().item())
        means.append(out.mean().item())
    assert np.mean(stds) == pytest.approx(scale / math.sqrt(3), rel=0.1)
    assert abs(np.mean(means)) < 0.05


def test_different_ids_have_different_embeddings_unless_hashed() -> None:
    for name, kind in KINDS.items():
        bags = new_bags({name: kind}).eval()
        features = KeyedJaggedTensor([name], torch.arange(1000), lengths=torch.ones(1000, dtype=torch.int64))
        distinct = len(torch.unique(bags(features)[name].detach(), dim=0))
        assert distinct == (50 if name == "hash" else 1000), name


def test_a_collection_of_all_operations_can_be_restored() -> None:
    bags, again = new_bags(KINDS), new_bags(KINDS, seed=9)
    features = batch(list(reversed(KINDS)))
    out = bags(features)
    assert out.keys() == list(KINDS) and out.values().shape == (30, DIM * len(KINDS))
    out.values().sum().backward()
    assert 0 < bags.rows_touched() <= sum(sum(kind.partitions.sizes) for kind in KINDS.values())
    again.restore(bags.weights(), bags.training_state())
    with torch.no_grad():
        for (_, mine), (_, other) in zip(bags.dense_parameters(), again.dense_parameters(), strict=True):
            other.copy_(mine)
    assert torch.equal(bags.eval()(features).values(), again.eval()(features).values())
    with pytest.raises(KeyError, match=r"'hash'.* are not in the batch"):
        bags(batch(["add"]))


@pytest.mark.parametrize("family", ["hash", "quotient_remainder"])
def test_dlrm_of_torchrec_learns_only_with_unique_codes(family: Family) -> None:
    """The label of an id is the parity of its quotient, which quotient and remainder can learn but 8 hashed rows cannot."""
    torch.manual_seed(0)
    sizes = (8,) if family == "hash" else (20, 10)
    bags = new_bags({"f": Composition(Partitions(family, 200, sizes), "add")}, scale=0.1)
    model = DLRM(bags, 1, [8, DIM], [16, 1])  # type: ignore[arg-type]
    own = [p for name, p in model.named_parameters() if "embedding_bag_collection" not in name]
    optimizer = torch.optim.Adam(own, 0.01)
    ids = torch.arange(200)
    labels = (ids // 20 % 2).float()
    features = KeyedJaggedTensor(["f"], ids, lengths=torch.ones(200, dtype=torch.int64))
    loss = torch.tensor(0.0)
    for _ in range(200):
        loss = nn.functional.binary_cross_entropy_with_logits(model(torch.zeros(200, 1), features).view(-1), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() > 0.3 if family == "hash" else loss.item() < 0.1


def test_operations_that_do_not_match_are_refused() -> None:
    with pytest.raises(ValueError, match=r"'t_f': concat of 3 parts requires a dimension that is a multiple of 12, found 16"):
        new_bags({"f": Composition(partitions_for("generalised", 1000, 60, 3), "concat")})
    with pytest.raises(ValueError, match="project requires one partition and a dim"):
        new_bags({"f": Composition(partitions_for("naive", 10, 10), "project", dim=6)})
    with pytest.raises(ValueError, match="dim is only allowed with operation project"):
        new_bags({"f": Composition(QR, "add", dim=4)})


def test_features_with_more_ids_get_narrower_rows() -> None:
    found = mixed_dimensions({"a": 10, "b": 1000, "c": 10**6}, 64)
    assert found == {"a": 64, "b": 16, "c": 4}
