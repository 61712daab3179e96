"""Collisionless tables: look-up and update compared with FBGEMM's fused tables and torch's, the hash map, memory and deltas.

Every side has F tables of dimension D, and B examples with one id per feature. FBGEMM and torch receive row numbers; our side
receives 64-bit ids and finds their rows. Our memory is on huge pages, theirs where they allocate it. Every step has a new
batch, so that batches are not cached.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from fbgemm_gpu.split_embedding_configs import EmbOptimType
from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
    BoundsCheckMode,
    ComputeDevice,
    EmbeddingLocation,
    PoolingMode,
    SplitTableBatchedEmbeddingBagsCodegen,
)
from pandas import Index
from torch import nn
from torchrec.models.dlrm import DLRM as TorchRecDLRM
from torchrec.modules.embedding_configs import EmbeddingBagConfig, PoolingType
from torchrec.modules.fused_embedding_modules import FusedEmbeddingBagCollection
from torchrec.optim.rowwise_adagrad import RowWiseAdagrad
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from benchmarks.result import Result
from ml.artifacts.snapshot import CheckpointShard, save_shard
from ml.compute.kernel_cache import jit
from ml.embeddings.collisionless.bags import CollisionlessEmbeddingBags
from ml.embeddings.collisionless.deltas import create_delta
from ml.embeddings.collisionless.hash_map import HashMap
from ml.embeddings.collisionless.memory import zeros
from ml.embeddings.collisionless.prefetch import AHEAD, prefetch
from ml.models.dlrm import DLRM
from ml.training.loop import threads

F, B, D, DENSE = 26, 4096, 16, 13
STEPS, WARM = 14, 4
KEYS = [f"f{f}" for f in range(F)]
PLACES_PER_ID = 2  # random accesses: a slot of the map, and a row, whose second cache line is adjacent to the first


@dataclass(frozen=True)
class Batch:
    """Ids, int64 [F * B], and their row numbers for tables that do not find rows themselves, int64 [F * B]."""

    ids: torch.Tensor
    rows: torch.Tensor


def run() -> list[Result]:
    found = []
    lines = _random_lines()
    for rows in (1_000_000, 10_000_000):
        ids = np.random.default_rng(0).integers(-(2**62), 2**62, (F, rows // F))
        bags, fused, plain = _ours(ids), _fbgemm(rows // F), _Plain(rows // F)
        for draw in ("zipf", "uniform"):
            best: dict[str, float] = {}
            for count in (1, 2):
                with threads(count):
                    results, rates = _beside(bags, fused, plain if count == 1 else None, ids, draw, count, lines)
                found += results
                best = {name: max(rate, best.get(name, 0.0)) for name, rate in rates.items()}
            what = f"tables: look-up and update, {round(ids.size / 1e6)}M rows, {draw} ids, each at its best of 1 and 2 threads"
            found.append(Result(what, "ids/s", best["ours"], best["FBGEMM"], "FBGEMM"))
        if rows == 10_000_000:
            found.append(_memory(bags))
        del bags, fused, plain
    return [*found, *_map_alone(), *_deltas(), *_dlrm()]


def _beside(
    bags: CollisionlessEmbeddingBags,
    fused: nn.Module,
    plain: _Plain | None,
    ids: np.ndarray,
    draw: str,
    count: int,
    lines: float,
) -> tuple[list[Result], dict[str, float]]:
    """Return results, and ids per second of look-up and update by side. The sides take turns at every step."""
    offsets, grad = torch.arange(F * B + 1), torch.randn(B, F * D)
    lengths = torch.ones(F * B, dtype=torch.int32)

    def ours(batch: Batch) -> torch.Tensor:
        return bags(KeyedJaggedTensor(KEYS, batch.ids, lengths=lengths, stride=B)).values()

    sides: dict[str, Callable[[Batch], torch.Tensor]] = {"ours": ours, "FBGEMM": lambda batch: fused(batch.rows, offsets)}
    if plain is not None:
        sides["nn.EmbeddingBag"] = plain
    look_up: dict[str, list[float]] = {name: [] for name in sides}
    update: dict[str, list[float]] = {name: [] for name in sides}
    for batch in _batches(ids, draw):
        for name, forward in sides.items():
            began = time.perf_counter()
            out = forward(batch)
            between = time.perf_counter()
            out.backward(grad)
            if name == "nn.EmbeddingBag" and plain is not None:
                plain.step()
            update[name].append(time.perf_counter() - began)
            look_up[name].append(between - began)
    rates = {name: F * B / float(np.median(seconds[WARM:])) for name, seconds in update.items()}
    ahead = {name: F * B / float(np.median(seconds[WARM:])) for name, seconds in look_up.items()}
    what = f"{round(ids.size / 1e6)}M rows, {draw} ids, {count} thread{'s' * (count > 1)}"
    floor = lines * count / PLACES_PER_ID if draw == "uniform" else None
    found = []
    for name, side in (("look-up in training", ahead), ("look-up and update", rates)):
        note = (
            f"{side['ours'] / floor:.0%} of the floor: {PLACES_PER_ID} random places an id" if floor else "hot rows: no floor"
        )
        found.append(Result(f"tables: {name}, {what}", "ids/s", side["ours"], side["FBGEMM"], "FBGEMM", floor, note))
    if plain is not None:
        name = "nn.EmbeddingBag"
        found.append(Result(f"tables: look-up and update, {what}", "ids/s", rates["ours"], rates[name], f"{name}, Adagrad"))
    return found, rates


def _batches(ids: np.ndarray, draw: str) -> Iterator[Batch]:
    rng, per_table = np.random.default_rng(1), ids.shape[1]
    for _ in range(STEPS):
        rows = rng.zipf(1.2, (F, B)) % per_table if draw == "zipf" else rng.integers(0, per_table, (F, B))
        yield Batch(torch.from_numpy(np.take_along_axis(ids, rows, 1).reshape(-1)), torch.from_numpy(rows.reshape(-1)))


def _configs(rows: int) -> list[EmbeddingBagConfig]:
    return [
        EmbeddingBagConfig(name=f"t_{key}", embedding_dim=D, num_embeddings=rows, feature_names=[key], pooling=PoolingType.MEAN)
        for key in KEYS
    ]


def _ours(ids: np.ndarray) -> CollisionlessEmbeddingBags:
    bags = CollisionlessEmbeddingBags(_configs(1), lr=0.05, init_scale=0.01)
    bags.store.insert(np.repeat(np.arange(F), ids.shape[1]), ids.reshape(-1))
    return bags


def _fbgemm(rows: int) -> nn.Module:
    return SplitTableBatchedEmbeddingBagsCodegen(
        [(rows, D, EmbeddingLocation.HOST, ComputeDevice.CPU)] * F,
        optimizer=EmbOptimType.EXACT_ROWWISE_ADAGRAD,
        learning_rate=0.05,
        eps=1e-8,
        pooling_mode=PoolingMode.MEAN,
        bounds_check_mode=BoundsCheckMode.NONE,
    )


class _Plain:
    """A sparse `nn.EmbeddingBag` per table, with one Adagrad for all."""

    def __init__(self, rows: int) -> None:
        self.tables = [nn.EmbeddingBag(rows, D, mode="mean", sparse=True) for _ in range(F)]
        self.optimizer = torch.optim.Adagrad([table.weight for table in self.tables], 0.05)
        self.each = torch.arange(B)

    def __call__(self, batch: Batch) -> torch.Tensor:
        self.optimizer.zero_grad()
        return torch.cat([table(rows, self.each) for table, rows in zip(self.tables, batch.rows.view(F, B), strict=True)], 1)

    def step(self) -> None:
        self.optimizer.step()


def _memory(bags: CollisionlessEmbeddingBags) -> Result:
    store = bags.store
    needed = store.row_bytes + 16 / 0.7
    note = f"{store.nbytes / len(store):.0f} bytes a row: {store.row_bytes} of record, the rest the map, of 16 a slot"
    return Result("tables: rows per megabyte", "rows", 1e6 / (store.nbytes / len(store)), 1e6 / needed, "a full map", note=note)


def _map_alone() -> list[Result]:
    rng, n = np.random.default_rng(0), 2_000_000
    ids = np.unique(rng.integers(-(2**62), 2**62, n))
    asked, tables, rows = rng.permutation(ids), np.zeros(len(ids), np.int64), np.arange(len(ids))
    own, index, plain = HashMap(), Index(asked), dict(zip(ids.tolist(), range(len(ids)), strict=True))
    fbgemm = torch.classes.fbgemm.PrunedMapCPU()
    narrow, whole = torch.arange(len(ids), dtype=torch.int32), torch.tensor([0, len(ids)], dtype=torch.int32)
    small = torch.from_numpy(rng.permutation(len(ids)).astype(np.int32))  # it takes 32-bit ids only
    listed = asked.tolist()
    insert = {
        "ours": _rate(len(ids), lambda: HashMap().insert(tables, ids, rows)),
        "dict": _rate(len(ids), lambda: dict(zip(listed, range(len(listed)), strict=True))),
        "FBGEMM's pruned map (32-bit ids)": _rate(
            len(ids), lambda: torch.classes.fbgemm.PrunedMapCPU().insert(small, narrow, whole, 1)
        ),
    }
    own.insert(tables, ids, rows)
    fbgemm.insert(small, narrow, whole, 1)
    index.get_indexer(asked[:10])  # type: ignore[arg-type]
    find = {
        "ours": _rate(len(ids), lambda: own.find(tables, asked)),
        "dict": _rate(len(ids), lambda: [plain[i] for i in listed]),
        "pandas Index": _rate(len(ids), lambda: index.get_indexer(ids)),  # type: ignore[arg-type]
        "FBGEMM's pruned map (32-bit ids)": _rate(len(ids), lambda: fbgemm.lookup(small, whole)),
    }
    return [
        Result(f"map: {what}, 2M ids", "ids/s", rates["ours"], rate, name)
        for what, rates in (("insert", insert), ("find", find))
        for name, rate in rates.items()
        if name != "ours"
    ]


def _deltas() -> list[Result]:
    """Compare a delta of 200,000 rows in memory with a whole snapshot of 5 million rows written to disk."""
    rng, n, updated = np.random.default_rng(0), 5_000_000, 200_000
    ids = np.unique(rng.integers(-(2**62), 2**62, n))[None, :]
    table = EmbeddingBagConfig(name="t", embedding_dim=D, num_embeddings=1, feature_names=["f"])
    bags = CollisionlessEmbeddingBags([table], lr=0.05, init_scale=0.01)
    bags.store.insert(np.zeros(ids.size, np.int64), ids[0])
    since = bags.store.step
    chosen = torch.from_numpy(rng.choice(ids[0], updated, replace=False))
    bags(KeyedJaggedTensor(["f"], chosen, lengths=torch.ones(updated, dtype=torch.int32))).values().sum().backward()
    began = time.perf_counter()
    delta = create_delta(bags.store, since)
    ready = time.perf_counter() - began
    with tempfile.TemporaryDirectory() as root:
        began = time.perf_counter()
        save_shard(CheckpointShard(bags.weights(), bags.training_state(), {}), Path(root))
        whole = time.perf_counter() - began
        size = sum(path.stat().st_size for path in Path(root).iterdir())
    share = (delta.nbytes / delta.rows) / (size / ids.size)
    note = f"{delta.nbytes / 1e6:.0f} of {size / 1e6:.0f} MB; a row takes {share:.2f} of what it takes in a snapshot, written"
    return [Result("deltas: 200k rows of 5M", "per s", 1 / ready, 1 / whole, "a whole snapshot", note=note)]


def _dlrm() -> list[Result]:
    """Compare steps of a DLRM of the recipe's size with 2.6 million rows: ours on 64-bit ids, TorchRec's on row numbers."""
    rows = 100_000
    ids = np.random.default_rng(0).integers(-(2**62), 2**62, (F, rows))
    bottom, top = [64], [128, 64]
    fused = FusedEmbeddingBagCollection(_configs(rows), RowWiseAdagrad, {"lr": 0.05, "eps": 1e-8}, device=torch.device("cpu"))
    sides = {
        "ours": DLRM(_ours(ids), DENSE, bottom, top),
        "TorchRec's DLRM, fused FBGEMM tables": TorchRecDLRM(fused, DENSE, [*bottom, D], [*top, 1]),  # type: ignore[arg-type]
    }
    tables = {id(p) for p in fused.parameters()}
    dense = {name: [p for p in model.parameters() if p.numel() and id(p) not in tables] for name, model in sides.items()}
    optimizers = {name: torch.optim.Adam(parameters, 0.001) for name, parameters in dense.items()}
    lengths, found = torch.ones(F * B, dtype=torch.int32), []
    for count in (1, 2):
        seconds: dict[str, list[float]] = {name: [] for name in sides}
        with threads(count):
            for batch in _batches(ids, "zipf"):
                features, labels = torch.randn(B, DENSE), torch.rand(B).round()
                for name, model in sides.items():
                    values = batch.ids if name == "ours" else batch.rows
                    began = time.perf_counter()
                    logits = model(features, KeyedJaggedTensor(KEYS, values, lengths=lengths, stride=B)).view(-1)
                    loss = nn.functional.binary_cross_entropy_with_logits(logits, labels)
                    optimizers[name].zero_grad()
                    loss.backward()
                    optimizers[name].step()
                    seconds[name].append(time.perf_counter() - began)
        rates = {name: B / float(np.median(times[WARM:])) for name, times in seconds.items()}
        ours, (other, baseline) = rates.pop("ours"), next(iter(rates.items()))
        what = f"DLRM step, 26 tables of 100k rows, zipf ids, {count} thread{'s' * (count > 1)}"
        found.append(Result(what, "samples/s", ours, baseline, other))
    return found


def _rate(count: int, work: Callable[[], object]) -> float:
    """Items per second, the best of three runs."""
    best = float("inf")
    for _ in range(3):
        began = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - began)
    return count / best


def _random_lines() -> float:
    """Cache lines per second that one thread reads at random places of a gigabyte, prefetched well ahead."""
    lines = zeros((1 << 24, 16), np.float32)
    lines += 1
    places = np.random.default_rng(0).integers(0, len(lines), 4_000_000)
    _sum_lines(lines, places[:1000])
    return _rate(len(places), lambda: _sum_lines(lines, places))


@jit
def _sum_lines(lines, places):  # type: ignore[no-untyped-def]
    total = np.float32(0)
    for i in range(len(places)):
        if i + 2 * AHEAD < len(places):
            prefetch(lines, np.uint64(places[i + 2 * AHEAD]), np.uint64(0))
        total += lines[np.uint64(places[i]), 0]
    return total
