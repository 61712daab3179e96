"""Ranking of 500 candidates for one request, by a DLRM of 26 tables of 100,000 rows of 64, on one thread.

Half of the features, dense and sparse, are of the request, and half of the item. Bottom MLP 256-128-64, top MLP 256-128-1. The
baseline is TorchRec's DLRM, eager, float32, with the same weights, which computes all features of each candidate. Each step
below keeps what the steps above it do:

| step | what it changes |
|---|---|
| export | rows of 8 bits, all tables in one gather |
| request once | the embeddings of the request are looked up once and repeated |
| divided | products and first layer are divided; what candidates share is computed once |
| item sides | what requests share was computed before, as the service does (`ml.serving.item_sides`) |

The last row has 8-bit layers in addition (`export.layers: int8`). The floor of `item sides` is the larger of two times: the
number of multiplications divided by the throughput of a large matrix product, and the number of gathered bytes divided by the
bandwidth of a copy.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import nn
from torchrec.models.dlrm import DLRM as TorchRecDLRM
from torchrec.modules.embedding_configs import EmbeddingBagConfig
from torchrec.modules.embedding_modules import EmbeddingBagCollection
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from benchmarks.result import Result
from ml.datasets.batch import Batch
from ml.embeddings.fixed.static import StaticEmbeddingBags
from ml.embeddings.inference.quantise import quantise_tables
from ml.models.dlrm import DLRM
from ml.models.int8 import quantise_layers
from ml.models.split_dlrm import FeatureSides, ItemStates, SplitDLRM
from ml.training.loop import threads

TABLES, ROWS, DIM, DENSE = 26, 100_000, 64, 13
BOTTOM, TOP = [256, 128], [256, 128]
CANDIDATES, CATALOGUE, REQUESTS, ROUNDS = 500, 10_000, 16, 9
SPARSE_NAMES, DENSE_NAMES = [f"c{n}" for n in range(TABLES)], [f"i{n}" for n in range(DENSE)]
OF_REQUEST, DENSE_OF_REQUEST = TABLES // 2, DENSE // 2
BASELINE, EXPORT, LAST = "TorchRec's DLRM, eager, float32", "export", "item sides"
INT8 = "8-bit layers"
SIDES = FeatureSides(frozenset([*SPARSE_NAMES[OF_REQUEST:], *DENSE_NAMES[DENSE_OF_REQUEST:]]))


@dataclass(frozen=True)
class _Asked:
    """A request: all columns of its candidates, those of the request alone, and the candidates among the live items."""

    rows: Batch
    request: Batch
    of_items: KeyedJaggedTensor
    candidates: torch.Tensor


def run() -> list[Result]:
    with threads(1), torch.no_grad():
        theirs, ours = _models()
        items, asked = _requests()
        split = SplitDLRM(ours, DENSE_NAMES, SIDES)
        began = time.process_time()
        states = split.items(items)
        per_item = (time.process_time() - began) / len(items)
        steps = _steps(theirs, ours, split, states)
        errors, seconds = _errors(steps, asked), _seconds(steps, asked)
        floor, why = _floor(states)
    results, baseline = [], seconds[BASELINE]
    for before, name in pairwise(seconds):
        own, saved = seconds[name], seconds[before] - seconds[name]
        note = f"{own * 1e3:.2f} ms, {saved * 1e3:.2f} ms saved; logits are {errors[name]:.0e} of their spread from TorchRec's"
        if name == LAST:
            note += f"; floor {floor * 1e3:.2f} ms: {why}; {per_item * 1e6:.0f} µs per item before"
            note += f"; TorchRec {baseline * 1e3:.2f} ms"
        at_floor = 1 / floor if name == LAST else None
        title = f"Rank {CANDIDATES} candidates: {name}"
        results.append(Result(title, "requests per CPU-second", 1 / own, 1 / baseline, BASELINE, at_floor, note))
    return results


def _models() -> tuple[TorchRecDLRM, DLRM]:
    """Build TorchRec's model and ours with the same weights; the rows of ours are quantised to 8 bits."""
    torch.manual_seed(0)
    configs = [EmbeddingBagConfig(name=n, embedding_dim=DIM, num_embeddings=ROWS, feature_names=[n]) for n in SPARSE_NAMES]
    bags = EmbeddingBagCollection(tables=configs)
    for parameter in bags.parameters():
        parameter.normal_(0, 0.1)
    theirs = TorchRecDLRM(bags, DENSE, [*BOTTOM, DIM], [*TOP, 1]).eval()
    trained = StaticEmbeddingBags(configs, init_scale=0.1, lr=0.1, eps=1e-8, initial_accumulator=0.0, seed=0)
    for name, held in trained.weights().items():
        if name.endswith(".weight"):
            held.copy_(bags.embedding_bags[name.removesuffix(".weight")].weight)  # type: ignore[arg-type]
    ours = DLRM(trained, DENSE, BOTTOM, TOP).eval().requires_grad_(False)
    layers = [[layer for layer in model.modules() if isinstance(layer, nn.Linear)] for model in (theirs, ours)]
    for their, own in zip(*layers, strict=True):
        own.load_state_dict(their.state_dict())
    quantise_tables(ours, "int8")
    return theirs, ours


def _with_int8_layers(model: DLRM) -> DLRM:
    """Copy a model with 8-bit layers; tables are shared."""
    bags = model.sparse_arch.embedding_bag_collection
    copied = copy.deepcopy(model, {id(bags): bags})
    quantise_layers(copied)
    return copied


def _requests() -> tuple[Batch, list[_Asked]]:
    """Draw the live items and requests for some of them."""
    items = torch.randint(2, ROWS, (TABLES, CATALOGUE)), torch.randn(CATALOGUE, DENSE)
    asked = []
    for _ in range(REQUESTS):
        candidates = torch.randperm(CATALOGUE)[:CANDIDATES]
        ids, dense = items[0][:, candidates].clone(), items[1][candidates].clone()
        ids[:OF_REQUEST], dense[:, :DENSE_OF_REQUEST] = ids[:OF_REQUEST, :1].clone(), dense[:1, :DENSE_OF_REQUEST].clone()
        of_items = torch.ones(TABLES, CANDIDATES, dtype=torch.int32)
        of_items[:OF_REQUEST] = 0
        asked.append(
            _Asked(
                Batch(dense, _sparse(ids)),
                Batch(dense[:1], _sparse(ids[:, :1])),
                KeyedJaggedTensor(SPARSE_NAMES, ids[OF_REQUEST:].flatten(), lengths=of_items.flatten(), stride=CANDIDATES),
                candidates,
            )
        )
    return Batch(items[1], _sparse(items[0])), asked


def _sparse(ids: torch.Tensor) -> KeyedJaggedTensor:
    """One id of each feature, int64 [F, B]."""
    lengths = torch.ones(ids.numel(), dtype=torch.int32)
    return KeyedJaggedTensor(SPARSE_NAMES, ids.flatten(), lengths=lengths, stride=ids.shape[1])


def _steps(
    theirs: TorchRecDLRM, ours: DLRM, split: SplitDLRM, states: ItemStates
) -> dict[str, Callable[[_Asked], torch.Tensor]]:
    every = torch.arange(CANDIDATES)

    def request_once(asked: _Asked) -> torch.Tensor:
        once = ours.sparse_arch(asked.request.sparse)[:, :OF_REQUEST].expand(CANDIDATES, -1, -1)
        embedded = torch.cat((once, ours.sparse_arch(asked.of_items)[:, OF_REQUEST:]), 1)
        return ours.top(ours.interaction(ours.bottom(asked.rows.dense), embedded)).squeeze(1)

    def divided(asked: _Asked) -> torch.Tensor:
        return split.logits(split.request(asked.request), split.items(asked.rows), every, asked.rows).squeeze(1)

    def item_sides(by: SplitDLRM) -> Callable[[_Asked], torch.Tensor]:
        return lambda asked: by.logits(by.request(asked.request), states, asked.candidates, asked.rows).squeeze(1)

    in_int8 = SplitDLRM(_with_int8_layers(ours), DENSE_NAMES, SIDES)
    return {
        BASELINE: lambda asked: theirs(asked.rows.dense, asked.rows.sparse).squeeze(1),
        EXPORT: lambda asked: ours(asked.rows.dense, asked.rows.sparse),
        "request once": request_once,
        "divided": divided,
        LAST: item_sides(split),
        INT8: item_sides(in_int8),
    }


def _errors(steps: Mapping[str, Callable[[_Asked], torch.Tensor]], asked: list[_Asked]) -> dict[str, float]:
    """Return the root mean square difference of logits from TorchRec's, as a share of the standard deviation of these.

    All steps must give the logits of the export.
    """
    found = {name: torch.cat([step(one) for one in asked]) for name, step in steps.items()}
    wanted, export, spread = found[BASELINE], found[EXPORT], float(found[BASELINE].std())
    for name, rounding in ((LAST, 1e-4), (INT8, 0.1)):
        assert (found[name] - export).abs().max() < rounding * spread, name
    return {name: float((own - wanted).square().mean().sqrt()) / spread for name, own in found.items()}


def _seconds(steps: Mapping[str, Callable[[_Asked], torch.Tensor]], asked: list[_Asked]) -> dict[str, float]:
    """Return CPU seconds of a request, the best of several rounds. Steps take turns, so that other load affects all of them."""
    best = dict.fromkeys(steps, float("inf"))
    for _ in range(ROUNDS):
        for name, step in steps.items():
            began = time.process_time()
            for one in asked:
                step(one)
            best[name] = min(best[name], (time.process_time() - began) / len(asked))
    return best


def _floor(states: ItemStates) -> tuple[float, str]:
    """Return the least seconds of the last step on this machine, and why."""
    of_items, of_request = TABLES - OF_REQUEST, OF_REQUEST
    widths = [DENSE, *BOTTOM, DIM]
    bottom = sum(a * b for a, b in pairwise(widths))  # x depends on dense features of both
    products = (of_items + 1) * of_request + of_items
    first = (products + DIM) * TOP[0]
    per_candidate = bottom + products * DIM + first + TOP[0] * TOP[1] + TOP[1]
    square, source = torch.randn(1024, 1024), torch.randn(1 << 24)
    target = torch.empty_like(source)
    rate = 1024**3 / _best(lambda: torch.mm(square, square))
    bandwidth = source.nbytes / _best(lambda: target.copy_(source))
    operations, nbytes = per_candidate * CANDIDATES, states.nbytes // CATALOGUE * CANDIDATES
    seconds = {
        f"{operations / 1e6:.0f}M multiplications at {rate / 1e9:.0f} G/s": operations / rate,
        f"{nbytes / 1e6:.1f} MB at {bandwidth / 1e9:.1f} GB/s": nbytes / bandwidth,
    }
    return max(seconds.values()), ", ".join(f"{what} {own * 1e3:.2f} ms" for what, own in seconds.items())


def _best(work: Callable[[], object]) -> float:
    best = float("inf")
    for _ in range(ROUNDS):
        began = time.process_time()
        work()
        best = min(best, time.process_time() - began)
    return best
