"""Two towers: unit vectors, a softmax over sampled items, its correction for sampling, and items without users."""

from __future__ import annotations

import math

import pytest
import torch
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from ml.models.build import build_model
from ml.models.item_bank import ItemBank
from ml.models.two_tower import TwoTower
from ml.recipes.recipe import load_recipe
from ml.schema import FeatureSchema

SCHEMA = FeatureSchema(("age", "clicks"), ("user", "item", "topic"), ("read",), "f")
B = 6


def model_of(**chosen: object) -> TwoTower:
    sizes = {
        "user": ["user", "read", "age"],
        "item": ["item", "topic", "clicks"],
        "embedding_dim": 8,
        "out": 16,
        "hidden": [16],
    }
    tables = {"features": {"read": {"kind": "shared", "of": "item"}}, "init_scale": 0.5}
    model = build_model(load_recipe("two_tower", {"model": sizes | chosen, "tables": tables}), SCHEMA)
    assert isinstance(model, TwoTower)
    return model


def batch_of(items: list[int], seed: int = 0) -> tuple[torch.Tensor, KeyedJaggedTensor]:
    generator = torch.Generator().manual_seed(seed)
    n = len(items)
    lengths = torch.cat([torch.ones(3 * n, dtype=torch.int64), torch.randint(1, 3, (n,), generator=generator)])
    read = torch.randint(0, 9, (int(lengths[3 * n :].sum()),), generator=generator)
    values = torch.cat([torch.arange(n), torch.tensor(items), torch.tensor(items) % 2, read])
    return torch.randn(n, 2, generator=generator), KeyedJaggedTensor(list(SCHEMA.sparse), values, lengths=lengths, stride=n)


def test_logits_are_cosines_over_the_temperature() -> None:
    model, (dense, sparse) = model_of(temperature=0.5), batch_of([1, 2, 3, 1, 5, 6])
    user, item = model.embeddings(dense, sparse)
    torch.testing.assert_close(user.norm(dim=1), torch.ones(B))
    torch.testing.assert_close(item.norm(dim=1), torch.ones(B))
    torch.testing.assert_close(model(dense, sparse), (user * item).sum(1) / 0.5)


def test_items_without_users_and_users_without_items_have_the_same_vectors() -> None:
    model = model_of()
    dense, sparse = batch_of([1, 2, 3, 1, 5, 6])
    model(dense, sparse).sum().backward()  # ids have rows
    model.eval()
    user, item = model.embeddings(dense, sparse)
    ids, own = model.item_features(dense, sparse)
    assert ids.shape == (B, 2) and own.shape == (B, 1)
    alone = model.item_embedding(*model.item_rows(own, ids, sparse.keys(), 2))
    torch.testing.assert_close(alone, item)
    no_items = torch.where(torch.tensor([1, 0, 0, 1]).repeat_interleave(B).bool(), sparse.lengths(), 0)
    kept = torch.cat([sparse["user"].values(), sparse["read"].values()])
    torch.testing.assert_close(model.user_embedding(dense, KeyedJaggedTensor(sparse.keys(), kept, lengths=no_items)), user)


def test_a_history_reads_the_rows_of_its_items() -> None:
    configs = {c.name: c.feature_names for c in model_of().sparse_arch.embedding_bag_collection.embedding_bag_configs()}
    assert configs == {"user": ["user"], "item": ["item", "read"], "topic": ["topic"]}


@pytest.mark.parametrize("correct", [True, False])
def test_the_softmax_is_over_the_other_rows_items_but_for_accidental_hits(correct: bool) -> None:
    model, (dense, sparse) = model_of(), batch_of([1, 2, 3, 1, 5, 1])
    before = model_of()  # the same first state
    losses = model.sampled_softmax(dense, sparse, correct=correct)
    user, item = before.train().embeddings(dense, sparse)
    logits = user @ item.T / before.temperature
    if correct:
        often = torch.tensor([3.0, 1, 1, 3, 1, 3])
        faded = often * math.exp(-1 / model.frequency.memory)
        logits = logits - faded.log()
    ids = torch.tensor([1, 2, 3, 1, 5, 1])
    for row in range(B):
        others = [j for j in range(B) if ids[j] != ids[row]]
        wanted = torch.logsumexp(logits[row, [row, *others]], 0) - logits[row, row]
        torch.testing.assert_close(losses[row], wanted, rtol=1e-3, atol=1e-3)


def test_uniform_negatives_come_from_the_items_of_late() -> None:
    bank = ItemBank(1, 1, slots=64)
    bank.observe(torch.tensor([5, 6, 5]), torch.tensor([[50], [60], [51]]), torch.tensor([[0.5], [0.6], [0.51]]))
    assert len(bank) == 2
    sparse, dense = bank.draw(1000)
    pairs = {(int(s), round(float(d), 2)) for s, d in zip(sparse, dense, strict=True)}
    assert pairs == {(51, 0.51), (60, 0.6)}, "of an item, what its last row says"
    assert 400 < int((sparse == 60).sum()) < 600
    model = model_of()
    losses = model.sampled_softmax(*batch_of([1, 2, 3, 4, 5, 6]), uniform=50)
    assert losses.shape == (B,) and bool(torch.isfinite(losses).all())
    losses.mean().backward()


def test_rows_without_any_known_id_have_a_gradient_that_is_no_explosion() -> None:
    tables = {"default": {"kind": "collisionless", "min_count": 2}, "features": {}}
    sizes = {"user": ["user"], "item": ["item"], "embedding_dim": 8, "out": 16, "hidden": [16]}
    model = build_model(load_recipe("two_tower", {"model": sizes, "tables": tables}), SCHEMA)
    assert isinstance(model, TwoTower)
    model.sampled_softmax(*batch_of([1, 2, 3, 1, 5, 1])).mean().backward()
    steepest = max(float(p.grad.abs().max()) for p in model.parameters() if p.grad is not None)
    assert 0 < steepest < 1e6


def test_the_softmax_is_as_exact_where_products_are_of_half_the_bits() -> None:
    losses = []
    for enabled in (False, True):
        model = model_of(hidden=[])
        vectors = torch.nn.functional.normalize(torch.randn(2, B, 16, generator=torch.Generator().manual_seed(0)), dim=2)
        model.embeddings = lambda *_, vectors=vectors: tuple(vectors)  # type: ignore[method-assign,misc]
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            losses.append(model.sampled_softmax(*batch_of([1, 2, 3, 4, 5, 6])))
    assert torch.equal(losses[0], losses[1])


def test_recipes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\['who'\] not among the features"):
        model_of(user=["who"])
    with pytest.raises(ValueError, match=r"\['read'\] have any number of ids"):
        model_of(user=["user"], item=["item", "read"])
    with pytest.raises(ValueError, match="features of both towers"):
        model_of(user=["user", "topic"])
    with pytest.raises(ValueError, match="item_id 'topic' is not among"):
        model_of(item=["item"], item_id="topic")


@pytest.mark.parametrize(
    "changed",
    [{"dropout": 0.25}, {"temperature": 0.2}, {"loss": "pointwise"}, {"uniform_negatives": 4}, {"logq_correction": False}],
)
def test_changeable_keys_keep_the_state_of_a_model(changed: dict[str, object]) -> None:
    assert model_of(**changed).state_dict().keys() == model_of().state_dict().keys()
