"""Properties of the `TrainableBags` interface that hold for every kind of table."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torchrec.modules.embedding_configs import EmbeddingBagConfig, PoolingType
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from ml.embeddings.collisionless.bags import CollisionlessEmbeddingBags
from ml.embeddings.fixed.compositional import Composition, CompositionalEmbeddingBags
from ml.embeddings.fixed.hashed import HashedEmbeddingBags
from ml.embeddings.fixed.partitions import partitions_for
from ml.embeddings.fixed.static import StaticEmbeddingBags
from ml.embeddings.interface import TrainableBags
from ml.embeddings.mixed import MixedEmbeddingBags
from ml.embeddings.optimizers import RowOptimizer
from ml.schema import MISSING_ID, OOV_ID
from tests.helpers.reference_tables import ReferenceEmbeddingBags

DIM, ROWS, START = 4, 50, 0.5
NAMES = ("type", "keys")  # torch does not allow these names for submodules
Build = Callable[[list[EmbeddingBagConfig]], TrainableBags]


def collisionless(configs: list[EmbeddingBagConfig]) -> TrainableBags:
    return CollisionlessEmbeddingBags(configs, lr=0.1, init_scale=0.3, optimizer=RowOptimizer(initial_accumulator=START))


def reference(configs: list[EmbeddingBagConfig]) -> TrainableBags:
    return ReferenceEmbeddingBags(configs, lr=0.1, init_scale=0.3, optimizer=RowOptimizer(initial_accumulator=START))


def hashed(configs: list[EmbeddingBagConfig]) -> TrainableBags:
    return HashedEmbeddingBags(configs, init_scale=0.3, lr=0.1, eps=1e-8, initial_accumulator=START, seed=0)


def static(configs: list[EmbeddingBagConfig]) -> TrainableBags:
    return StaticEmbeddingBags(configs, init_scale=0.3, lr=0.1, eps=1e-8, initial_accumulator=START, seed=0)


def compositional(configs: list[EmbeddingBagConfig]) -> TrainableBags:
    how = {config.name: Composition(partitions_for("naive", ROWS, ROWS), "add") for config in configs}
    return CompositionalEmbeddingBags(configs, how, init_scale=0.3, lr=0.1, eps=1e-8, initial_accumulator=START, seed=0)


BUILDS: list[Build] = [collisionless, reference, hashed, static, compositional]
FIXED: list[Build] = [hashed, static, compositional]


def configs_of(names: tuple[str, ...] = NAMES, pooling: PoolingType = PoolingType.MEAN) -> list[EmbeddingBagConfig]:
    return [
        EmbeddingBagConfig(name=name, embedding_dim=DIM, num_embeddings=ROWS, feature_names=[name], pooling=pooling)
        for name in names
    ]


def features_of(ids: dict[str, list[list[int]]], dtype: torch.dtype = torch.int64) -> KeyedJaggedTensor:
    lengths = torch.tensor([len(bag) for bags in ids.values() for bag in bags])
    values = torch.tensor([i for bags in ids.values() for bag in bags for i in bag], dtype=dtype)
    return KeyedJaggedTensor(list(ids), values, lengths=lengths, stride=len(next(iter(ids.values()))))


def trained(build: Build, pooling: PoolingType = PoolingType.MEAN) -> TrainableBags:
    """Return tables in which each id from 2 to 9 has a row, and all rows differ."""
    bags = build(configs_of(pooling=pooling))
    ids = {name: [[i] for i in range(2, 10)] for name in NAMES}
    bags(features_of(ids)).values().backward(torch.linspace(-1, 1, 8 * 2 * DIM).view(8, -1))
    return bags.eval()


def one(bags: TrainableBags, name: str, number: int) -> torch.Tensor:
    other = NAMES[1 - NAMES.index(name)]
    return bags(features_of({name: [[number]], other: [[2]]}))[name][0].detach()


@pytest.mark.parametrize("build", BUILDS)
def test_pooling_does_not_depend_on_the_order_of_keys(build: Build) -> None:
    for pooling in (PoolingType.MEAN, PoolingType.SUM):
        bags = trained(build, pooling)
        batch = {"keys": [[5], [2, 3, 3]], "type": [[], [7, 4]]}
        pooled = bags(features_of(batch))
        assert pooled.keys() == list(NAMES)
        for name, wanted in batch.items():
            for example, ids in enumerate(wanted):
                rows = [one(bags, name, i) for i in ids]
                total = torch.stack(rows).sum(0) if rows else torch.zeros(DIM)
                share = max(len(ids), 1) if pooling == PoolingType.MEAN else 1
                torch.testing.assert_close(pooled[name][example], total / share)


@pytest.mark.parametrize("build", BUILDS)
@pytest.mark.parametrize("dtype", [torch.int16, torch.int32])
def test_the_integer_type_of_ids_does_not_matter(build: Build, dtype: torch.dtype) -> None:
    bags = trained(build)
    batch = {"type": [[2, 9], [3]], "keys": [[4], [5, 5]]}
    assert torch.equal(bags(features_of(batch, dtype)).values(), bags(features_of(batch)).values())


@pytest.mark.parametrize("build", BUILDS)
def test_an_empty_batch_gives_no_bags(build: Build) -> None:
    bags, none = build(configs_of()), features_of({"type": [], "keys": []})
    for training in (True, False):
        out = bags.train(training)(none)
        assert out.keys() == list(NAMES) and out.values().shape == (0, 2 * DIM)


@pytest.mark.parametrize("build", FIXED)
def test_fixed_size_tables_refuse_weights_per_sample(build: Build) -> None:
    ids = features_of({"type": [[2]], "keys": [[3]]})
    weighted = KeyedJaggedTensor(ids.keys(), ids.values(), torch.tensor([0.5, 2.0]), lengths=ids.lengths())
    with pytest.raises(ValueError, match="only collisionless tables support weights per sample"):
        build(configs_of())(weighted)


@pytest.mark.parametrize("build", BUILDS)
def test_an_update_is_rowwise_adagrad_at_the_current_learning_rate(build: Build) -> None:
    bags = build(configs_of())
    batch = features_of({"type": [[2]], "keys": [[3]]})
    for rate in (0.1, 0.0, 0.4):
        bags.set_learning_rate(rate)
        bags.eval()
        before = bags(batch)["type"][0].detach().clone()
        bags.train()
        bags(batch).values().backward(torch.full((1, 2 * DIM), 0.25))
        bags.eval()
        seen = {0.1: 1, 0.0: 2, 0.4: 3}[rate]
        wanted = rate * 0.25 / np.sqrt(START + seen * 0.0625)
        moved = before - bags(batch)["type"][0].detach()
        if rate != 0.1 or build not in (collisionless, reference):  # their rows are created by the first look-up
            torch.testing.assert_close(moved, torch.full((DIM,), wanted, dtype=torch.float32), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("build", FIXED)
def test_first_weights_depend_only_on_seed_and_table(build: Build) -> None:
    both, alone = build(configs_of()), build(configs_of(("keys",)))
    assert torch.equal(both.eval()(features_of({"type": [[2]], "keys": [[3]]}))["keys"],
                       alone.eval()(features_of({"keys": [[3]]}))["keys"])  # fmt: skip
    assert not torch.equal(one(both, "type", 3), one(both, "keys", 3))


def test_static_tables_read_one_row_for_all_ids_out_of_vocabulary() -> None:
    bags = static(configs_of())
    bags.begin_pass()
    bags(features_of({"type": [[2], [ROWS], [-1]], "keys": [[3], [ROWS - 1], [MISSING_ID]]}))
    assert {name: (f.looked_up, f.unknown) for name, f in bags.stats().items()} == {"type": (3, 2), "keys": (3, 0)}
    assert bags.rows_touched() == 2 + 3
    bags.eval()
    for strange in (ROWS, ROWS + 10**12, -1, -(2**63)):
        assert torch.equal(one(bags, "type", strange), one(bags, "type", OOV_ID))
    own = [one(bags, "type", i) for i in (MISSING_ID, OOV_ID, 2, ROWS - 1)]
    assert len({tuple(row.tolist()) for row in own}) == 4


def test_mixed_tables_look_up_each_feature_in_its_own_collection() -> None:
    parts = {"a": collisionless(configs_of(("x", "y"))), "b": hashed(configs_of(("z",))), "c": static(configs_of(("w",)))}
    mixed = MixedEmbeddingBags(parts)
    batch = {"w": [[2], [3, 4]], "x": [[5], [6]], "z": [[7], [8]], "y": [[9], [10]]}
    mixed(features_of(batch)).values().sum().backward()
    mixed.eval()
    out = mixed(features_of(batch))
    for kind, names in (("a", ("x", "y")), ("b", ("z",)), ("c", ("w",))):
        own = parts[kind](features_of({name: batch[name] for name in names}))
        for name in names:
            assert torch.equal(out[name], own[name]) and bool(out[name].any())
    with pytest.raises(ValueError, match="tables of different names"):
        other = [EmbeddingBagConfig(name="x", embedding_dim=DIM, num_embeddings=ROWS, feature_names=["v"])]
        MixedEmbeddingBags({**parts, "d": hashed(other)})


def test_bytes_by_table_add_up_to_the_bytes_of_the_store() -> None:
    bags = collisionless(configs_of())
    rng = np.random.default_rng(0)
    for _ in range(3):
        ids = {name: [[int(i)] for i in rng.integers(0, 10**6, 3000)] for name in NAMES}
        bags(features_of(ids)).values().sum().backward()
    assert isinstance(bags, CollisionlessEmbeddingBags)
    assert sum(f.nbytes for f in bags.stats().values()) == pytest.approx(bags.store.nbytes, abs=2)
    bags.store.delete_rows(bags.store.rows_of(0))
    assert sum(f.nbytes for f in bags.stats().values()) == pytest.approx(bags.store.nbytes, abs=2)
