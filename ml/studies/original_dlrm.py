"""The reference DLRM in plain PyTorch, with the settings of its script for Criteo Kaggle, as the baseline of studies.

Settings and initial weights are those of facebookresearch/dlrm (`bench/dlrm_s_criteo_kaggle.sh`, `dlrm_s_pytorch.py`; Naumov et
al., 2019, arXiv 1906.00091): one `nn.EmbeddingBag` with sparse gradients for each categorical feature, and SGD for all weights.
As in the reference, ids are numbered consecutively over all days beforehand, and the days are in memory while training runs.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ml.catalog.spec import DatasetSpec
from ml.datasets.reader import BlockReader
from ml.datasets.splits import SPLITS
from ml.lake import Lake
from ml.metrics import auc
from ml.studies.timed_run import Recorder, TimedRun
from ml.training.loop import threads

EVALUATION_BATCH = 16_384  # --test-mini-batch-size of the script
_READ_BATCH = 65_536
_WARM_STEPS = 20

Bags = list[tuple[torch.Tensor, torch.Tensor]]  # per feature: ids int64 [values], offsets int64 [B]


class Diverged(RuntimeError):
    """The loss is not finite."""


@dataclass(frozen=True)
class Settings:
    """Settings of the reference. The defaults are those of its script for Criteo Kaggle.

    Attributes:
        dim: Dimension of the embeddings.
        bottom: Hidden widths of the bottom MLP; its output width is `dim`.
        top: Hidden widths of the top MLP.
        linear_shortcut: Whether a linear function of the embeddings is added to the logit, which the reference does not have.
        batch_size: Rows of a step.
        table_lr: Learning rate of the tables.
        dense_lr: Learning rate of the MLPs.
        warm_up: Share of all steps during which the learning rates increase from zero.
        decay_start: Share of all steps after which the learning rates decrease.
        decay: Share of all steps over which they decrease quadratically to zero; 0 for none.
        seed: Seed of the initial weights.
        threads: Number of threads.
    """

    dim: int = 16
    bottom: tuple[int, ...] = (512, 256, 64)
    top: tuple[int, ...] = (512, 256)
    linear_shortcut: bool = False
    batch_size: int = 128
    table_lr: float = 0.1
    dense_lr: float = 0.1
    warm_up: float = 0.0
    decay_start: float = 1.0
    decay: float = 0.0
    seed: int = 0
    threads: int = 1

    def factor(self, progress: float) -> float:
        """Return the factor of the learning rates after a share of all steps, as the reference's `LRPolicyScheduler` does."""
        if progress < self.warm_up:
            return progress / self.warm_up
        if self.decay and progress > self.decay_start:
            return max(0.0, 1 - (progress - self.decay_start) / self.decay) ** 2
        return 1.0


@dataclass(frozen=True)
class NumberedDay:
    """The N rows of a day in time order, with consecutive ids.

    Attributes:
        dense: float32 [N, I].
        ids: int64 [values] of each feature.
        starts: int64 [N + 1] of each feature: where the ids of each row begin.
        labels: float32 [N].
    """

    dense: torch.Tensor
    ids: tuple[torch.Tensor, ...]
    starts: tuple[torch.Tensor, ...]
    labels: torch.Tensor

    def batches(self, size: int) -> Iterator[tuple[torch.Tensor, Bags, torch.Tensor]]:
        """Yield dense features, bags and labels of consecutive rows."""
        for begin in range(0, len(self.labels), size):
            end = min(begin + size, len(self.labels))
            bags = []
            for ids, starts in zip(self.ids, self.starts, strict=True):
                first, past = int(starts[begin]), int(starts[end])
                bags.append((ids[first:past], starts[begin:end] - first))
            yield self.dense[begin:end], bags, self.labels[begin:end]


@dataclass(frozen=True)
class NumberedDays:
    """Days with consecutive ids.

    Attributes:
        days: The days by date, in order.
        rows: Number of distinct ids of each feature: the rows of its table.
    """

    days: dict[str, NumberedDay]
    rows: tuple[int, ...]

    @classmethod
    def read(cls, spec: DatasetSpec, days: Sequence[str], lake: Lake, features: Sequence[str]) -> NumberedDays:
        """Read all rows of some days, and number the ids of each feature.

        Args:
            spec: The dataset.
            days: Days in ascending order; their `mds_datasets` are in the lake.
            lake: Where the data is stored.
            features: Sparse features to read.
        """
        read = {day: _read_day(spec, day, lake, features) for day in days}
        rows = []
        numbered = {day: list[torch.Tensor]() for day in days}
        for feature in range(len(features)):
            each = [read[day][1][feature] for day in days]
            distinct, inverse = np.unique(np.concatenate(each), return_inverse=True)
            rows.append(max(1, len(distinct)))
            for day, ids in zip(days, np.split(inverse, np.cumsum([len(ids) for ids in each])[:-1]), strict=True):
                numbered[day].append(torch.from_numpy(ids.astype(np.int64)))
        found = {day: NumberedDay(read[day][0], tuple(numbered[day]), read[day][2], read[day][3]) for day in days}
        return cls(found, tuple(rows))

    @property
    def dense(self) -> int:
        """Number of dense features."""
        return next(iter(self.days.values())).dense.shape[1]


class OriginalDLRM(nn.Module):
    """DLRM in plain PyTorch.

    Args:
        dense: Number of dense features I.
        rows: Rows of each of the F tables.
        settings: Dimension and layers.
    """

    def __init__(self, dense: int, rows: Sequence[int], settings: Settings) -> None:
        super().__init__()
        features, dim = len(rows), settings.dim
        self.tables = nn.ModuleList(nn.EmbeddingBag(n, dim, mode="sum", sparse=True) for n in rows)
        for table, n in zip(self.tables, rows, strict=True):
            nn.init.uniform_(table.weight, -math.sqrt(1 / n), math.sqrt(1 / n))  # type: ignore[arg-type]
        self.has_dense = dense > 0
        self.bottom = _mlp([max(1, dense), *settings.bottom, dim], last_relu=True)
        self.top = _mlp([dim + (features + 1) * features // 2, *settings.top, 1], last_relu=False)
        self.shortcut = nn.Linear(features * dim, 1, bias=False) if settings.linear_shortcut else None
        self.first, self.second = torch.tril_indices(features + 1, features + 1, offset=-1)

    def forward(self, dense: torch.Tensor, bags: Bags) -> torch.Tensor:
        """Compute logits [B] of dense features [B, I] and F bags."""
        x = self.bottom(dense if self.has_dense else dense.new_ones(len(dense), 1))
        embedded = [table(ids, offsets) for table, (ids, offsets) in zip(self.tables, bags, strict=True)]
        vectors = torch.stack([x, *embedded], 1)  # [B, F + 1, D]
        products = torch.bmm(vectors, vectors.transpose(1, 2))  # [B, F + 1, F + 1]
        logits = self.top(torch.cat((x, products[:, self.first, self.second]), 1))
        if self.shortcut is not None:
            logits = logits + self.shortcut(vectors[:, 1:].flatten(1))
        return logits.squeeze(1)


def reference_features(spec: DatasetSpec) -> list[str]:
    """Return the sparse features that the reference would have: ids of the log, without buckets of numbers and crosses."""
    return [feature.name for feature in spec.sparse if feature.bucketise is None and feature.cross is None]


def train_original(
    name: str, data: NumberedDays, days: Sequence[str], settings: Settings, *, evaluations: int = 1, by_day: bool = False
) -> TimedRun:
    """Train on all days except the last, once and in time order, and score the last.

    Args:
        name: Name of the run.
        data: The days.
        days: At least two of its days, in order.
        settings: The settings.
        evaluations: Number of evaluations on the last day during each day's pass.
        by_day: Whether each day after the first is also scored with the model of the days before it.

    Returns:
        The run.

    Raises:
        Diverged: The loss is not finite.
    """
    with threads(settings.threads):
        for _ in _steps(_Training(data, settings), data.days[days[0]], _WARM_STEPS):  # loads kernels
            pass
        training = _Training(data, settings, sum(_count(data.days[day], settings) for day in days[:-1]))
        recorder = Recorder(name, lambda: training.auc(data.days[days[-1]]), evaluations)
        for day in days[:-1]:
            if by_day and day != days[0]:
                recorder.by_day[day] = training.auc(data.days[day])
            steps = _count(data.days[day], settings)
            with recorder.watch.running():
                for index, rows in enumerate(_steps(training, data.days[day])):
                    recorder.after_step(index, steps, rows)
            if not math.isfinite(training.loss):
                raise Diverged(f"the loss is {training.loss} at the end of {day}")
        if by_day:
            recorder.by_day[days[-1]] = training.auc(data.days[days[-1]])
    return recorder.run()


def fastest_threads(data: NumberedDays, day: str, settings: Settings, cores: int, steps: int = 100) -> dict[int, float]:
    """Return the seconds of some steps with one thread and with one for each core."""
    found = {}
    for count in sorted({1, cores}):
        chosen = replace(settings, threads=count)
        with threads(count):
            training = _Training(data, chosen)
            for _ in _steps(training, data.days[day], _WARM_STEPS):
                pass
            began = time.perf_counter()
            for _ in _steps(training, data.days[day], steps):
                pass
            found[count] = time.perf_counter() - began
    return found


class _Training:
    """A model with its optimizers."""

    def __init__(self, data: NumberedDays, settings: Settings, total_steps: int = 0) -> None:
        torch.manual_seed(settings.seed)
        self.model, self.settings, self.total_steps = OriginalDLRM(data.dense, data.rows, settings), settings, total_steps
        dense = [parameter for name, parameter in self.model.named_parameters() if not name.startswith("tables")]
        groups = [{"params": list(self.model.tables.parameters()), "lr": settings.table_lr}]
        self.optimizer = torch.optim.SGD([*groups, {"params": dense, "lr": settings.dense_lr}])
        self.rates = [group["lr"] for group in self.optimizer.param_groups]
        self.steps, self.loss = 0, 0.0

    def step(self, dense: torch.Tensor, bags: Bags, labels: torch.Tensor) -> None:
        factor = self.settings.factor(self.steps / self.total_steps) if self.total_steps else 1.0
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * factor
        loss = nn.functional.binary_cross_entropy_with_logits(self.model(dense, bags), labels)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.steps, self.loss = self.steps + 1, float(loss.detach())

    def auc(self, day: NumberedDay) -> float:
        with torch.inference_mode():
            logits = [self.model(dense, bags) for dense, bags, _ in day.batches(EVALUATION_BATCH)]
        scores: NDArray[np.float32] = torch.cat(logits).numpy()
        found = auc(day.labels.numpy(), scores)
        return math.nan if found is None else found


def _steps(training: _Training, day: NumberedDay, most: int | None = None) -> Iterator[int]:
    """Train on a day. Yields the rows of each step."""
    for number, (dense, bags, labels) in enumerate(day.batches(training.settings.batch_size)):
        if number == most:
            return
        training.step(dense, bags, labels)
        yield len(labels)


def _count(day: NumberedDay, settings: Settings) -> int:
    return math.ceil(len(day.labels) / settings.batch_size)


def _mlp(widths: Sequence[int], last_relu: bool) -> nn.Sequential:
    layers: list[nn.Module] = []
    for a, b in pairwise(widths):
        linear = nn.Linear(a, b)
        nn.init.normal_(linear.weight, 0.0, math.sqrt(2 / (a + b)))
        nn.init.normal_(linear.bias, 0.0, math.sqrt(1 / b))
        layers += [linear, nn.ReLU()]
    return nn.Sequential(*(layers if last_relu else layers[:-1]))


def _read_day(
    spec: DatasetSpec, day: str, lake: Lake, features: Sequence[str]
) -> tuple[torch.Tensor, list[NDArray[np.int64]], tuple[torch.Tensor, ...], torch.Tensor]:
    """Read dense features, the ids and the starts of each feature, and labels of a day."""
    dense, labels = list[torch.Tensor](), list[torch.Tensor]()
    ids, lengths = [list[torch.Tensor]() for _ in features], [list[torch.Tensor]() for _ in features]
    for batch in BlockReader(lake, spec, [day], splits=SPLITS, batch_size=_READ_BATCH, order="time"):
        dense.append(batch.dense.clone())
        labels.append(batch.labels.clone())
        each = batch.sparse.to_dict()
        for index, feature in enumerate(features):
            ids[index].append(each[feature].values().clone())
            lengths[index].append(each[feature].lengths().long())
    starts = tuple(torch.cat((torch.zeros(1, dtype=torch.int64), torch.cat(own).cumsum(0))) for own in lengths)
    return torch.cat(dense), [torch.cat(own).numpy() for own in ids], starts, torch.cat(labels)
