"""The deltas of two ranks merge to the delta of the whole tables, and each rank applies its share of a whole delta."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from ml.embeddings.collisionless import state_dict
from ml.embeddings.delta import Delta, Gap, merge_deltas
from ml.embeddings.distributed.replicas import merge_replicas
from ml.embeddings.distributed.sharded import shard_tables
from ml.embeddings.interface import TrainableBags, bags_of
from tests.ml.embeddings.test_interface import NAMES, compositional, configs_of, hashed, static
from tests.ml.embeddings.test_table_deltas import SECOND, growing, held, same

KINDS = {"growing": growing, "hashed": hashed, "static": static, "compositional": compositional}
RANKS, ROUNDS, STEPS = 2, 3, 4


def batch(round_: int, step: int, rank: int) -> KeyedJaggedTensor:
    """Return the batch of a rank. Some batches of the second rank are empty."""
    generator = torch.Generator().manual_seed(100 * round_ + 10 * step + rank)
    size = 0 if rank and step == 1 else 3
    ids = torch.randint(2, 30, (2 * size,), generator=generator) + 5 * round_
    return KeyedJaggedTensor(list(NAMES), ids, lengths=torch.ones(2 * size, dtype=torch.int64), stride=size)


def train(bags: TrainableBags, round_: int, rank: int) -> None:
    for step in range(STEPS):
        bags.set_time((10 * round_ + step) * SECOND)
        bags(batch(round_, step, rank)).values().sum().backward()
    bags.end_pass()


def sharded_model() -> dict[str, TrainableBags]:
    model = nn.ModuleDict({name: build(configs_of()) for name, build in KINDS.items()})
    shard_tables(model)
    return bags_of(model)


def work(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/group", rank=rank, world_size=RANKS)
    trainers, replicas = sharded_model(), sharded_model()
    for round_ in range(ROUNDS):
        for name, bags in trainers.items():
            train(bags, round_, rank)
            share = bags.delta(replicas[name].step)
            torch.save(share.to_tensors(), f"{folder}/{name}-{round_}-{rank}.pt")
            dist.barrier()
            whole = merge_deltas([read(folder, name, round_, other) for other in range(RANKS)])
            assert replicas[name].apply_delta(whole) and not replicas[name].apply_delta(whole)
            mine, own = (held(of) for of in (replicas[name], bags))
            assert same(mine, own), f"{name}, round {round_}"
            with pytest.raises(Gap):
                bags.delta(bags.step + 1)
            torch.save(bags.weights(), f"{folder}/{name}-{round_}-{rank}-weights.pt")
    dist.destroy_process_group()


def read(folder: str | Path, name: str, round_: int, rank: int) -> Delta:
    return Delta.from_tensors(torch.load(f"{folder}/{name}-{round_}-{rank}.pt"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("sharded")
    mp.start_processes(work, (str(found),), nprocs=RANKS, start_method="spawn")  # type: ignore[no-untyped-call]
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_merged_deltas_of_ranks_update_tables_without_ranks(name: str, folder: Path) -> None:
    server, deleted = KINDS[name](configs_of()), 0
    for round_ in range(ROUNDS):
        shares = [read(folder, name, round_, rank) for rank in range(RANKS)]
        assert all(share.rows for share in shares), "both ranks have rows"
        delta = merge_deltas(shares)
        deleted += sum(len(table.deleted) for table in delta.tables.values())
        assert server.apply_delta(delta)
        parts = [torch.load(folder / f"{name}-{round_}-{rank}-weights.pt") for rank in range(RANKS)]
        whole = state_dict.merge_shards(parts, NAMES) if server.sharded_by_id else parts[0]
        assert same(held(server), {tensor: value for tensor, value in whole.items() if tensor != "step"})
        assert server.step == int(whole["step"][0]), "a snapshot after a pass has the step of the delta"
    assert (deleted > 0) is (name == "growing")


def test_merged_replicas_have_a_delta() -> None:
    """Before merging, the delta of a replica covers only its own tables."""
    replicas, server = [growing(configs_of()) for _ in range(RANKS)], growing(configs_of())
    for round_ in range(ROUNDS):
        for rank, bags in enumerate(replicas):
            bags.begin_pass()
            train(bags, round_, rank)
        whole = merge_replicas([bags.weights() | bags.training_state() for bags in replicas], NAMES)
        parts = state_dict.split_optimizer_state(whole, NAMES)
        replicas = [growing(configs_of()) for _ in range(RANKS)]
        for bags in replicas:
            bags.restore(*parts)
        delta = replicas[0].delta(server.step)
        assert server.apply_delta(delta) and same(held(server), held(replicas[0]))
        assert any(len(table.deleted) for table in delta.tables.values())
