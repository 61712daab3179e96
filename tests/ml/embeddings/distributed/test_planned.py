"""Static tables that TorchRec distributes over one or two ranks compute the same as in a single process."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torchrec.modules.embedding_configs import EmbeddingBagConfig, PoolingType
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from ml.embeddings.distributed.planned import PlannedBags
from ml.embeddings.distributed.sharded import shard_tables
from ml.embeddings.fixed.static import StaticEmbeddingBags
from ml.embeddings.interface import TrainableBags, bags_of
from ml.models.dlrm import DLRM

ROWS = {"a": 400, "b": 30, "c": 20, "d": 500}  # some ids are out of vocabulary in b and c
DIM, EXAMPLES, STEPS, HALF = 8, 6, 6, 3


def tables(rows: dict[str, int] = ROWS) -> StaticEmbeddingBags:
    configs = [
        EmbeddingBagConfig(name=name, embedding_dim=DIM, num_embeddings=n, feature_names=[name], pooling=PoolingType.MEAN)
        for name, n in rows.items()
    ]
    return StaticEmbeddingBags(configs, init_scale=0.3, lr=0.1, eps=1e-8, initial_accumulator=1e-4, seed=0)


def model_of(rows: dict[str, int] = ROWS) -> nn.Module:
    torch.manual_seed(0)
    return DLRM(tables(rows), 2, [8, DIM], [8])


def batch(step: int, begin: int = 0, end: int = EXAMPLES) -> tuple[torch.Tensor, KeyedJaggedTensor, torch.Tensor, torch.Tensor]:
    """Return dense features, ids, labels and gradients of pooled rows for some examples of a step."""
    generator = torch.Generator().manual_seed(step)
    sizes = torch.randint(0, 3, (len(ROWS) * EXAMPLES,), generator=generator)
    bags = torch.randint(-3, 40, (int(sizes.sum()),), generator=generator).split(sizes.tolist())
    own = [bag for number, bag in enumerate(bags) if begin <= number % EXAMPLES < end]
    lengths = torch.tensor([len(bag) for bag in own], dtype=torch.int64)
    values = torch.cat([*own, torch.empty(0, dtype=torch.int64)])
    dense, gradient = torch.randn(EXAMPLES, 2, generator=generator), torch.randn(EXAMPLES, len(ROWS) * DIM, generator=generator)
    labels = torch.randint(0, 2, (EXAMPLES,), generator=generator).float()
    features = KeyedJaggedTensor(list(reversed(ROWS)), values, lengths=lengths, stride=end - begin)
    return dense[begin:end], features, labels[begin:end], gradient[begin:end]


def share(step: int, rank: int, ranks: int) -> tuple[int, int]:
    """Return the first and last example of a rank. In the last but one step, the second rank has no examples."""
    cuts = [0, EXAMPLES] if ranks == 1 else [0, EXAMPLES if step == STEPS - 2 else 4, EXAMPLES]
    return cuts[rank], cuts[rank + 1]


def pooled(bags: TrainableBags, rank: int, ranks: int, steps: range) -> list[torch.Tensor]:
    """Train tables with fixed gradients, and return the pooled rows of each step."""
    found = []
    for step in steps:
        _, features, _, gradient = batch(step, *share(step, rank, ranks))
        bags.set_learning_rate(0.1 / (step + 1))
        values = bags(features).values()
        values.backward(gradient)
        found.append(values.detach())
    return found


def logits(model: nn.Module, rank: int, ranks: int) -> torch.Tensor:
    dense, features, _, _ = batch(0, *share(0, rank, ranks))
    with torch.no_grad():
        return model.eval()(dense, features)


def losses(model: nn.Module, rank: int, ranks: int) -> list[float]:
    """Train only the tables, and return the loss of each step, summed over this rank's examples."""
    found = []
    for step in range(STEPS):
        dense, features, labels, _ = batch(step, *share(step, rank, ranks))
        loss = nn.functional.binary_cross_entropy_with_logits(model.train()(dense, features), labels, reduction="sum")
        (loss / EXAMPLES).backward()
        found.append(loss.item())
    return found


def state_of(bags: TrainableBags) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in (bags.weights() | bags.training_state()).items()}


def results_of(rank: int, ranks: int, bags: TrainableBags, model: nn.Module, half: TrainableBags) -> dict[str, Any]:
    """Train tables and a model, and return everything that the tests compare.

    `half` are tables that were restored from the state after half of the steps.
    """
    whole = model.eval()
    (trained,) = bags_of(model).values()
    bags.begin_pass()
    first = pooled(bags, rank, ranks, range(HALF))
    middle = state_of(bags)
    return {
        "pooled": [*first, *pooled(bags, rank, ranks, range(HALF, STEPS))],
        "middle": middle,
        "end": state_of(bags),
        "stats": bags.stats(),
        "touched": bags.rows_touched(),
        "none": bags(batch(0, 0, 0)[1]).values().detach(),
        "logits before": logits(whole, rank, ranks),
        "losses": losses(model, rank, ranks),
        "logits after": logits(whole, rank, ranks),
        "trained": state_of(trained),
        "resumed": pooled(half, rank, ranks, range(HALF, STEPS)),
        "resumed end": state_of(half),
    }


def work(rank: int, ranks: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/group-of-{ranks}", rank=rank, world_size=ranks)
    bags, half, model, single = PlannedBags(tables()), PlannedBags(tables()), model_of(), model_of({"a": 400})
    middle = torch.load(f"{folder}/middle.pt")
    weights = {name: tensor for name, tensor in middle.items() if name == "step" or name.endswith(".weight")}
    state = {name: tensor for name, tensor in middle.items() if name not in weights}
    errors = []
    for wrong in ({}, weights | {"a.weight": weights["b.weight"]}, weights | {"c.weight": weights["c.weight"].double()}):
        with pytest.raises(ValueError) as error:
            half.restore(wrong, state)
        errors.append(str(error.value))
    half.restore(weights, state)
    shard_tables(model)
    shard_tables(single)
    assert all(isinstance(found, PlannedBags) for of in (model, single) for found in bags_of(of).values())
    more = {"owner": bags.owner, "errors": errors, "alone": losses(single, rank, ranks)}
    torch.save(results_of(rank, ranks, bags, model, half) | more, f"{folder}/{rank}-of-{ranks}.pt")
    dist.destroy_process_group()


Found = tuple[dict[str, Any], dict[int, list[dict[str, Any]]]]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Found:
    """Return the results without ranks, and the results of each rank by the number of ranks."""
    folder, threads = tmp_path_factory.mktemp("planned"), torch.get_num_threads()
    bags = tables()
    pooled(bags, 0, 1, range(HALF))
    torch.save(state_of(bags), folder / "middle.pt")
    two = mp.start_processes(work, (2, str(folder)), nprocs=2, join=False, start_method="spawn")  # type: ignore[no-untyped-call]
    alone = results_of(0, 1, tables(), model_of(), bags) | {"alone": losses(model_of({"a": 400}), 0, 1)}
    work(0, 1, str(folder))
    torch.set_num_threads(threads)
    while two and not two.join():
        pass
    return alone, {n: [torch.load(folder / f"{r}-of-{n}.pt", weights_only=False) for r in range(n)] for n in (1, 2)}


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2])
def test_rows_are_equal_bit_for_bit_to_training_without_ranks(found: Found, ranks: int) -> None:
    alone, of_ranks = found
    for own in of_ranks[ranks]:
        for name in ("middle", "end", "resumed end"):
            assert own[name].keys() == alone[name].keys()
            for tensor in alone[name]:
                assert torch.equal(own[name][tensor], alone[name][tensor]), (name, tensor)
    for name in ("pooled", "resumed"):
        for step, values in enumerate(alone[name]):
            assert torch.equal(torch.cat([own[name][step] for own in of_ranks[ranks]]), values)
    assert len(of_ranks[ranks][-1]["pooled"][STEPS - 2]) == (EXAMPLES if ranks == 1 else 0)
    assert all(own["none"].shape == (0, len(ROWS) * DIM) for own in (alone, *of_ranks[ranks]))


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2])
def test_logits_and_losses_equal_training_without_ranks(found: Found, ranks: int) -> None:
    alone, of_ranks = found
    for name in ("logits before", "logits after"):
        torch.testing.assert_close(torch.cat([own[name] for own in of_ranks[ranks]]), alone[name], rtol=1e-5, atol=1e-6)
    assert not torch.allclose(alone["logits before"], alone["logits after"], atol=1e-3)
    for name in ("losses", "alone"):  # the model of `alone` has a single table, so one of two ranks stores none
        whole = [sum(of_step) for of_step in zip(*(own[name] for own in of_ranks[ranks]), strict=True)]
        assert whole == pytest.approx(alone[name], rel=1e-5)
    for own in of_ranks[ranks]:
        for tensor, wanted in alone["trained"].items():
            torch.testing.assert_close(own["trained"][tensor], wanted, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_two_ranks_store_the_tables_in_a_different_order(found: Found) -> None:
    owners = [own["owner"] for own in found[1][2]]
    assert owners[0] == owners[1] and set(owners[0].values()) == {0, 1}
    assert sorted(owners[0], key=owners[0].__getitem__) != list(ROWS)


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2])
def test_stats_of_ranks_add_up_to_the_whole(found: Found, ranks: int) -> None:
    alone, of_ranks = found
    assert sum(own["touched"] for own in of_ranks[ranks]) == alone["touched"]
    for table, wanted in alone["stats"].items():
        for name in ("rows", "nbytes", "looked_up", "unknown"):
            assert sum(getattr(own["stats"][table], name) for own in of_ranks[ranks]) == getattr(wanted, name)


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2])
def test_tables_without_ranks_resume_from_the_state_of_ranks(found: Found, ranks: int) -> None:
    alone, of_ranks = found
    middle, bags = of_ranks[ranks][-1]["middle"], tables()
    weights = {name: tensor for name, tensor in middle.items() if name == "step" or name.endswith(".weight")}
    bags.restore(weights, {name: tensor for name, tensor in middle.items() if name not in weights})
    for values, wanted in zip(pooled(bags, 0, 1, range(HALF, STEPS)), alone["resumed"], strict=True):
        assert torch.equal(values, wanted)


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2])
def test_tensors_of_other_tables_are_refused_by_name(found: Found, ranks: int) -> None:
    for own in found[1][ranks]:
        names, shape, dtype = own["errors"]
        assert names.startswith("expected tensors ['a.weight', 'b.weight'") and names.endswith("found []")
        assert shape == "a.weight: expected torch.float32 (400, 8), found torch.float32 (30, 8)"
        assert dtype == "c.weight: expected torch.float32 (20, 8), found torch.float64 (20, 8)"
