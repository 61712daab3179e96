"""Training a DLRM of typical size from MDS blocks of Criteo's sample, compared with TorchRec and plain PyTorch.

All sides read the same batches from the same reader, on one thread, in time order over days 1 to 6, and are scored on day 7.
They are compared at the same precision: float32 with float32, and bfloat16 (autocast of the dense part) with bfloat16. Kernels
are warm: every side takes steps before the measurement. Our side reads 64-bit ids; the others receive ids modulo the number of
rows of their tables, which takes a negligible amount of time.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import islice, pairwise
from typing import Literal

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.distributed.planner import EmbeddingShardingPlanner, Topology
from torchrec.models.dlrm import DLRM as TorchRecDLRM
from torchrec.modules.embedding_configs import EmbeddingBagConfig
from torchrec.modules.embedding_modules import EmbeddingBagCollection
from torchrec.optim.apply_optimizer_in_backward import apply_optimizer_in_backward
from torchrec.optim.rowwise_adagrad import RowWiseAdagrad
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from benchmarks._criteo_days import ALL, criteo_days
from benchmarks.result import Result
from ml.catalog.spec import DatasetSpec
from ml.datasets.batch import Batch
from ml.datasets.reader import BlockReader
from ml.lake import Lake
from ml.metrics import auc
from ml.recipes.recipe import load_recipe
from ml.schema import FeatureSchema
from ml.training.loop import steps, threads
from ml.training.passes import train_pass
from ml.training.state import new_state

BOTTOM, TOP, D, B = [512, 256], [512, 256], 16, 1024
TABLE_ROWS = 100_000
Side = tuple[float, float, str]  # samples per second of CPU, AUC on the last day, where the time went
Logits = Callable[[Batch], torch.Tensor]
Built = tuple[nn.Module, Callable[[], None], Logits]  # a model, its optimizers' step, and how it scores a batch
Build = Callable[[DatasetSpec], Built]
Precision = Literal["float32", "bfloat16"]
PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16")
WARM_STEPS = 20


def run() -> list[Result]:
    with criteo_days() as (spec, lake), threads(1), _alone():
        found = {(name, precision): SIDES[name](spec, lake, precision) for precision in PRECISIONS for name in SIDES}
        floor = {precision: _dense_alone(spec, precision) for precision in PRECISIONS}
    results = []
    for precision in PRECISIONS:
        ours, ours_auc, where = found["ours", precision]
        for name in SIDES:
            if name == "ours":
                continue
            theirs, theirs_auc, _ = found[name, precision]
            note = f"AUC {ours_auc:.4f} against {theirs_auc:.4f}; {where}; floor: the dense part alone"
            what = f"training from MDS blocks, MLPs {BOTTOM}, {TOP}, {precision}"
            results.append(Result(what, "samples/s", ours, theirs, name, floor[precision], note))
    low, full = (found["ours", precision] for precision in ("bfloat16", "float32"))
    note = f"AUC {low[1]:.4f} against {full[1]:.4f}"
    return [*results, Result("training: bfloat16", "samples/s", low[0], full[0], "ours in float32", note=note)]


def _ours(spec: DatasetSpec, lake: Lake, precision: Precision) -> Side:
    sizes = {"bottom": BOTTOM, "top": TOP, "embedding_dim": D, "linear_shortcut": True}
    recipe = load_recipe("dlrm", {"model": sizes, "precision": precision, "batch_size": B})
    warm = new_state(recipe, FeatureSchema.of(spec))
    warm.begin_pass()
    for _ in steps(warm, islice(_reader(spec, lake, spec.days()[0]), WARM_STEPS), total_steps=WARM_STEPS):
        pass
    state = new_state(recipe, FeatureSchema.of(spec))
    began, waiting, computing, rows = time.process_time(), 0.0, 0.0, 0
    for day in spec.days()[:-1]:
        state.begin_pass()
        reader = _reader(spec, lake, day)
        report = train_pass(state, reader, total_steps=len(reader))
        waiting, computing, rows = waiting + report.seconds_waiting, computing + report.seconds_computing, rows + report.rows
    seconds = time.process_time() - began
    state.model.eval()
    score = _score(spec, lake, lambda batch: state.model(batch.dense, batch.sparse))
    return rows / seconds, score, f"reading {waiting / (waiting + computing):.0%} of the time"


def _theirs(build: Build, spec: DatasetSpec, lake: Lake, precision: Precision) -> Side:
    """Train one of the other models: first a copy for a few steps, to warm kernels, then the measured one."""

    def train(model: nn.Module, step: Callable[[], None], logits: Logits, batches: Iterable[Batch]) -> int:
        rows = 0
        model.train()
        for batch in batches:
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
                scores = logits(batch)
            nn.functional.binary_cross_entropy_with_logits(scores.float(), batch.labels).backward()
            step()
            rows += len(batch)
        return rows

    train(*build(spec), islice(_reader(spec, lake, spec.days()[0]), WARM_STEPS))
    model, step, logits = build(spec)
    began, rows = time.process_time(), 0
    for day in spec.days()[:-1]:
        rows += train(model, step, logits, _reader(spec, lake, day))
    seconds = time.process_time() - began
    model.eval()
    return rows / seconds, _score(spec, lake, logits), ""


class _Plain(nn.Module):
    """A plain PyTorch DLRM: one `nn.EmbeddingBag` per feature, and one optimizer for all of them."""

    def __init__(self, dense: int, features: int, sparse: bool) -> None:
        super().__init__()
        tables = [nn.EmbeddingBag(TABLE_ROWS, D, mode="sum", sparse=sparse) for _ in range(features)]
        for table in tables:
            nn.init.uniform_(table.weight, -0.01, 0.01)
        self.tables = nn.ModuleList(tables)
        self.bottom, self.top = _mlp([dense, *BOTTOM, D]), _mlp([D + (features + 1) * features // 2, *TOP])
        self.last = nn.Linear(TOP[-1], 1)
        self.pairs = torch.tril_indices(features + 1, features + 1, offset=-1)

    def forward(self, dense: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        """Return logits [B] of dense features [B, I] and ids, int64 [F, B]."""
        x, each = self.bottom(dense), torch.arange(ids.shape[1])
        vectors = torch.stack([x, *(table(own, each) for table, own in zip(self.tables, ids, strict=True))], 1)
        products = torch.bmm(vectors, vectors.transpose(1, 2))
        pairs = products[:, self.pairs[0], self.pairs[1]]
        return self.last(self.top(torch.cat((x, pairs), 1))).squeeze(1)


def _plain(spec: DatasetSpec, sparse: bool = False) -> Built:
    torch.manual_seed(0)
    model = _Plain(len(spec.dense), len(spec.sparse), sparse)
    tables = torch.optim.Adagrad(model.tables.parameters(), 0.05)
    dense = torch.optim.Adam([p for name, p in model.named_parameters() if not name.startswith("tables")], 0.001)

    def step() -> None:
        for optimizer in (tables, dense):
            optimizer.step()
            optimizer.zero_grad()

    def logits(batch: Batch) -> torch.Tensor:
        return model(batch.dense, batch.sparse.values().remainder(TABLE_ROWS).view(-1, len(batch)))

    return model, step, logits


def _torchrec(spec: DatasetSpec) -> Built:
    torch.manual_seed(0)
    names = [feature.name for feature in spec.sparse]
    configs = [EmbeddingBagConfig(name=n, embedding_dim=D, num_embeddings=TABLE_ROWS, feature_names=[n]) for n in names]
    bags = EmbeddingBagCollection(tables=configs)
    apply_optimizer_in_backward(RowWiseAdagrad, bags.parameters(), {"lr": 0.05})
    inner = TorchRecDLRM(bags, len(spec.dense), [*BOTTOM, D], [*TOP, 1])
    sharder = EmbeddingBagCollectionSharder()
    plan = EmbeddingShardingPlanner(topology=Topology(world_size=1, compute_device="cpu")).plan(inner, [sharder])  # type: ignore[list-item]
    model = DistributedModelParallel(inner, device=torch.device("cpu"), plan=plan, sharders=[sharder])  # type: ignore[list-item]
    dense = torch.optim.Adam([p for name, p in model.named_parameters() if "embedding_bags" not in name], 0.001)

    def step() -> None:
        dense.step()
        dense.zero_grad()

    def logits(batch: Batch) -> torch.Tensor:
        ids = batch.sparse.values().remainder(TABLE_ROWS)
        features = KeyedJaggedTensor(names, ids, lengths=batch.sparse.lengths(), stride=len(batch))
        return model(batch.dense, features).squeeze(1)

    return model, step, logits


SIDES: dict[str, Callable[[DatasetSpec, Lake, Precision], Side]] = {
    "ours": _ours,
    "TorchRec's DLRM, fused FBGEMM tables under DistributedModelParallel": partial(_theirs, _torchrec),
    "PyTorch DLRM, nn.EmbeddingBag, Adagrad": partial(_theirs, _plain),
    "PyTorch DLRM, nn.EmbeddingBag(sparse=True), Adagrad": partial(_theirs, partial(_plain, sparse=True)),
}


def _dense_alone(spec: DatasetSpec, precision: Precision) -> float:
    """Return samples per CPU second of the same MLPs and interaction, forward and backward, on given embeddings."""
    features, steps = len(spec.sparse), 60
    bottom, top = (
        _mlp([len(spec.dense), *BOTTOM, D]),
        nn.Sequential(_mlp([D + (features + 1) * features // 2, *TOP]), nn.Linear(TOP[-1], 1)),
    )
    first, second = torch.triu_indices(features + 1, features + 1, offset=1)
    pairs, embedded, dense = first * (features + 1) + second, torch.randn(B, features, D), torch.randn(B, len(spec.dense))

    def once() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
            x = bottom(dense)
            vectors = torch.cat((x.unsqueeze(1), embedded.requires_grad_()), 1)
            products = torch.bmm(vectors, vectors.transpose(1, 2)).flatten(1).index_select(1, pairs)
            out = top(torch.cat((x, products), 1))
        out.float().sum().backward()

    for _ in range(10):
        once()
    began = time.process_time()
    for _ in range(steps):
        once()
    return steps * B / (time.process_time() - began)


def _mlp(widths: list[int]) -> nn.Sequential:
    layers = [part for a, b in pairwise(widths) for part in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*layers)


def _reader(spec: DatasetSpec, lake: Lake, day: str) -> BlockReader:
    return BlockReader(lake, spec, [day], splits=ALL, batch_size=B, order="time")


@torch.no_grad()
def _score(spec: DatasetSpec, lake: Lake, logits: Logits) -> float:
    scores, labels = zip(*((logits(batch), batch.labels) for batch in _reader(spec, lake, spec.days()[-1])), strict=True)
    return auc(torch.cat(labels).numpy(), torch.cat(scores).float().numpy().astype(np.float64)) or 0.0


@contextmanager
def _alone() -> Iterator[None]:
    """A process group of one process, which `DistributedModelParallel` requires."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=0, world_size=1)
    try:
        yield
    finally:
        dist.destroy_process_group()
