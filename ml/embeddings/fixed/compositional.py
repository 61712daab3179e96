"""Tables in which an id's embedding is put together from several small rows, and rows of fewer dimensions are projected up.

An id's codes (`partitions`) each pick a row, and an operation combines them (Shi et al., 2020, arXiv 1909.02107):

| operation | embedding of an id                                                                                   |
|-----------|------------------------------------------------------------------------------------------------------|
| concat    | its k rows of D / k weights side by side                                                             |
| add       | their sum                                                                                            |
| mult      | their product, element by element                                                                    |
| path      | the first row, then through a small MLP per further code, each added to what came in                 |
| project   | one row of d <= D weights, times a matrix of the table: mixed dimensions (Ginart et al., 2019,        |
|           | arXiv 1909.11810)                                                                                    |

Rows are trained by FBGEMM's fused kernel, matrices by the model's own optimizer. Whatever the operation, embeddings begin with
the spread of a plain table's.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from fbgemm_gpu.split_embedding_configs import EmbOptimType
from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
    BoundsCheckMode,
    ComputeDevice,
    EmbeddingLocation,
    PoolingMode,
    SplitTableBatchedEmbeddingBagsCodegen,
)
from torch import nn
from torchrec.modules.embedding_configs import EmbeddingBagConfig, PoolingType
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor, KeyedTensor

from ml.embeddings.fixed.partitions import MULTIPLE, PATH_WIDTH, Partitions, widths_of
from ml.embeddings.interface import TableStats, TrainableBags, features_of, generator_of, in_order, module_name, plain
from ml.embeddings.rules import Operation

_AROUND_ONE = 0.1


@dataclass(frozen=True)
class Composition:
    """How a table's rows are found and combined. dim: weights of a row before a projection, of `project` alone."""

    partitions: Partitions
    operation: Operation
    dim: int | None = None


class CompositionalEmbeddingBags(TrainableBags):
    """F tables of one dimension D, a table per feature, with row-wise Adagrad in the backward pass.

    Bags pool the ids' embeddings, not their rows. Raises `ValueError` where an operation does not fit its partitions or D.
    """

    def __init__(
        self,
        tables: Sequence[EmbeddingBagConfig],
        compositions: Mapping[str, Composition],
        *,
        init_scale: float,
        lr: float,
        eps: float,
        initial_accumulator: float,
        seed: int,
    ) -> None:
        super().__init__(lr)
        self._configs, self._keys = list(tables), features_of(tables)
        self.tables = nn.ModuleDict()
        for config in self._configs:
            self.tables[module_name(config.name)] = _Table(
                config, compositions[config.name], init_scale, lr, eps, initial_accumulator, generator_of(seed, config.name)
            )

    def forward(self, features: KeyedJaggedTensor) -> KeyedTensor:
        """Pooled embeddings: KeyedTensor with values float32 [B, F * D], keys in the order of the tables.

        The features' keys may come in any order. Raises `KeyError` where one is missing.
        """
        features = plain(in_order(features, self._keys))
        bags = [self.tables[module_name(c.name)](features[key].values(), features[key].lengths()) for c, key in self._placed()]
        return KeyedTensor(self._keys, [config.embedding_dim for config in self._configs], torch.cat(bags, dim=1))

    def _placed(self) -> Iterator[tuple[EmbeddingBagConfig, str]]:
        return zip(self._configs, self._keys, strict=True)

    def embedding_bag_configs(self) -> list[EmbeddingBagConfig]:
        return self._configs

    def set_learning_rate(self, lr: float) -> None:
        for _, table in self._named():
            table.rows.set_learning_rate(lr)

    def weights(self) -> dict[str, torch.Tensor]:
        """`<table>.<partition>.weight`: float32 [size, width]."""
        return {
            f"{name}.{part}.weight": weight.detach()
            for name, table in self._named()
            for part, weight in enumerate(table.rows.split_embedding_weights())
        }

    def training_state(self) -> dict[str, torch.Tensor]:
        """`<table>.<partition>.accumulator`: float32 [size]. `<table>.touched`: bool [sum of sizes]."""
        found = {f"{name}.touched": table.touched for name, table in self._named()}
        for name, table in self._named():
            states = table.rows.split_optimizer_states()
            found |= {f"{name}.{part}.accumulator": state.detach() for part, (state,) in enumerate(states)}
        return found

    def dense_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        for name, table in self._named():
            if table.projection is not None:
                yield f"tables.{module_name(name)}.projection", table.projection

    def stats(self) -> dict[str, TableStats]:
        return {name: TableStats(sum(table.sizes), table.nbytes) for name, table in self._named()}

    def begin_pass(self) -> None:
        for _, table in self._named():
            table.touched.zero_()

    def rows_touched(self) -> int:
        return sum(int(table.touched.sum()) for _, table in self._named())

    def _named(self) -> Iterator[tuple[str, _Table]]:
        return ((config.name, self.tables[module_name(config.name)]) for config in self._configs)  # type: ignore[misc]


class _Table(nn.Module):
    """One table: `forward(ids [N], lengths [B])` gives its bags, float32 [B, D]."""

    def __init__(
        self,
        config: EmbeddingBagConfig,
        composition: Composition,
        init_scale: float,
        lr: float,
        eps: float,
        initial_accumulator: float,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.dim, self.mean = config.embedding_dim, config.pooling == PoolingType.MEAN
        self.partitions, self.operation = composition.partitions, composition.operation
        self.sizes = self.partitions.sizes
        self.widths = widths_of(config.name, self.dim, composition.partitions, composition.operation, composition.dim)
        self.rows = SplitTableBatchedEmbeddingBagsCodegen(
            [(s, w, EmbeddingLocation.HOST, ComputeDevice.CPU) for s, w in zip(self.sizes, self.widths, strict=True)],
            optimizer=EmbOptimType.EXACT_ROWWISE_ADAGRAD,
            learning_rate=lr,
            eps=eps,
            pooling_mode=PoolingMode.SUM,  # of one row: FBGEMM's unpooled look-up wants equal widths
            bounds_check_mode=BoundsCheckMode.NONE,  # codes are below their sizes
        )
        self.touched = torch.zeros(sum(self.sizes), dtype=torch.bool)
        self.projection = None
        if self.operation == "project":
            spread = math.sqrt(3 / self.widths[0])  # uniform, of variance 1 / d
            matrix = torch.empty(self.widths[0], self.dim).uniform_(-spread, spread, generator=generator)
            self.projection = nn.Parameter(matrix)
        for part, weight in enumerate(self.rows.split_embedding_weights()):
            low, high = self._begin(part, init_scale)
            weight.data.uniform_(low, high, generator=generator)
        for (state,) in self.rows.split_optimizer_states():
            state.fill_(initial_accumulator)

    @property
    def nbytes(self) -> int:
        """Of rows, their sums of squares, and what projects them."""
        rows = sum(4 * size * (width + 1) for size, width in zip(self.sizes, self.widths, strict=True))
        return rows + (self.projection.nbytes if self.projection is not None else 0)

    def forward(self, ids: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        codes = torch.from_numpy(self.partitions.codes(ids.numpy()))
        if self.training:
            firsts = torch.tensor([0, *self.sizes[:-1]]).cumsum(0)
            self.touched[(codes + firsts[:, None]).view(-1)] = True
        found = self.rows(codes.view(-1), torch.arange(codes.numel() + 1))
        return self._pooled(self._combined(found), lengths)

    def _combined(self, found: torch.Tensor) -> torch.Tensor:
        """Embeddings of the ids, float32 [N, D]. found: float32 [N, sum of widths]."""
        if self.operation == "concat":
            return found
        if self.projection is not None:
            return found @ self.projection
        first, *rest = found.split(list(self.widths), dim=1)
        for part in rest:
            if self.operation == "add":
                first = first + part
            elif self.operation == "mult":
                first = first * part
            else:
                first = first + _mlp(part, first)
        return first

    def _pooled(self, embedded: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        if len(embedded) == len(lengths) and bool((lengths == 1).all()):
            return embedded
        bag = torch.repeat_interleave(torch.arange(len(lengths)), lengths.long())
        if self.mean:
            embedded = embedded / lengths[bag].unsqueeze(1)
        return embedded.new_zeros(len(lengths), self.dim).index_add(0, bag, embedded)

    def _begin(self, part: int, scale: float) -> tuple[float, float]:
        """Bounds of a part's first weights, such that what is combined is spread as uniform in [-scale, scale)."""
        if self.operation == "add":
            return -scale / math.sqrt(len(self.sizes)), scale / math.sqrt(len(self.sizes))
        if part and self.operation == "mult":
            return 1 - _AROUND_ONE, 1 + _AROUND_ONE
        if part and self.operation == "path":
            bound = min(1 / math.sqrt(self.dim) / PATH_WIDTH, scale)  # each MLP adds little at first, whatever the scale
            return -bound, bound
        return -scale, scale


def _mlp(weights: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """An MLP of its own for each of N vectors. weights: float32 [N, PATH_WIDTH * (2 D + 1) + D], padded. x: float32 [N, D]."""
    n, dim = x.shape
    into, back = PATH_WIDTH * dim, 2 * PATH_WIDTH * dim
    hidden = torch.bmm(weights[:, :into].view(n, PATH_WIDTH, dim), x.unsqueeze(2)).squeeze(2)
    hidden = torch.relu(hidden + weights[:, back : back + PATH_WIDTH])
    return torch.bmm(weights[:, into:back].view(n, dim, PATH_WIDTH), hidden.unsqueeze(2)).squeeze(2)


def mixed_dimensions(ids: Mapping[str, int], dim: int, temperature: float = 0.3) -> dict[str, int]:
    """Weights of a row by feature: `dim` for the one with the fewest ids, fewer for the others, n^-temperature, to a multiple
    of 4 (Ginart et al., 2019, algorithm 2). ids: how many ids each feature has.

    >>> mixed_dimensions({"hour": 24, "item": 10_000, "user": 10_000_000}, 32)
    {'hour': 32, 'item': 4, 'user': 4}
    """
    fewest = min(ids.values())
    return {
        name: max(MULTIPLE, round(dim * (count / fewest) ** -temperature / MULTIPLE) * MULTIPLE) for name, count in ids.items()
    }
