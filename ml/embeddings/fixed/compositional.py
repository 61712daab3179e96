"""Compositional embedding tables: the embedding of an id combines several small rows, or is projected from a narrow row.

Each code of an id (`partitions`) selects a row, and an operation combines the rows (Shi et al., 2020, arXiv 1909.02107):

| operation | embedding of an id                                                                                   |
|-----------|------------------------------------------------------------------------------------------------------|
| concat    | concatenation of its k rows, which have D / k weights each                                           |
| add       | sum of its rows                                                                                      |
| mult      | element-wise product of its rows                                                                     |
| path      | first row, passed through one small residual MLP for each further code                               |
| project   | one row of d <= D weights, times the table's projection matrix: mixed dimensions (Ginart et al.,     |
|           | 2019, arXiv 1909.11810)                                                                              |

FBGEMM's fused kernel trains rows; the model's optimizer trains projection matrices. First weights are scaled so that, for every
operation, embeddings have the same variance as in a plain table.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import nn
from torchrec.modules.embedding_configs import EmbeddingBagConfig
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor, KeyedTensor

from ml.embeddings.fixed.base import FixedBags, generator_of, module_name, unweighted
from ml.embeddings.fixed.compositional_table import Composition, CompositionalTable
from ml.embeddings.fixed.partitions import MULTIPLE
from ml.embeddings.interface import TableStats, in_order


class CompositionalEmbeddingBags(FixedBags):
    """F compositional tables of one dimension D, one per feature, with row-wise Adagrad in the backward pass.

    A bag pools the embeddings of its ids, after the rows of each id have been combined.

    Args:
        tables: The tables; each has one feature.
        compositions: How rows are selected and combined, by table name.
        init_scale: First embeddings have the variance of weights that are drawn uniformly from [-init_scale, init_scale).
        lr: Learning rate, before any schedule.
        eps: Constant that is added to the square root of a row's accumulator.
        initial_accumulator: Initial value of each row's accumulator.
        seed: Seed of the first weights, combined with the table's name.

    Raises:
        ValueError: If a table has several features, or an operation does not match its partitions or D.

    Example:
        >>> from ml.embeddings.fixed.partitions import partitions_for
        >>> tables = [EmbeddingBagConfig(name="t", embedding_dim=8, num_embeddings=1, feature_names=["f"])]
        >>> how = Composition(partitions_for("quotient_remainder", universe=1000, rows=80), operation="concat")
        >>> bags = CompositionalEmbeddingBags(
        ...     tables, {"t": how}, init_scale=0.1, lr=0.1, eps=1e-8, initial_accumulator=0.0, seed=0
        ... )
        >>> features = KeyedJaggedTensor(["f"], values=torch.tensor([7, 999]), lengths=torch.tensor([1, 0, 1]))
        >>> bags(features)["f"].shape, bags.stats()["t"].rows
        (torch.Size([3, 8]), 80)
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
        made = {
            c.name: CompositionalTable(
                c, compositions[c.name], init_scale, lr, eps, initial_accumulator, generator_of(seed, c.name)
            )
            for c in tables
        }
        super().__init__(
            tables,
            lr,
            {
                f"{name}.{part}": shape
                for name, table in made.items()
                for part, shape in enumerate(zip(table.sizes, table.widths, strict=True))
            },
        )
        sizes = torch.tensor([rows for table in made.values() for rows in table.sizes])
        first_rows = (sizes.cumsum(0) - sizes).split([len(table.sizes) for table in made.values()])
        self._first_rows = [own.unsqueeze(1) for own in first_rows]  # by table, int64 [k, 1]
        self.tables = nn.ModuleDict({module_name(name): table for name, table in made.items()})

    def forward(self, features: KeyedJaggedTensor) -> KeyedTensor:
        """Look up, combine and pool rows.

        Args:
            features: Ids of at least the F features, keys in any order.

        Returns:
            Pooled embeddings, float32 [B, F * D], keys in the order of the tables.

        Raises:
            KeyError: If a feature is missing.
            ValueError: If the features have weights per sample.
        """
        features = unweighted(in_order(features, self._keys))
        bags, rows = [], []
        for key, (_, table), first_rows in zip(self._keys, self._named(), self._first_rows, strict=True):
            ids = features[key]
            codes = table.codes(ids.values())  # [k, N]
            bags.append(table(codes, ids.lengths()))
            rows.append((codes + first_rows).view(-1))
        pooled = torch.cat(bags, dim=1)
        if self.training:
            self.row_steps.mark(torch.cat(rows), pooled)
        return KeyedTensor(self._keys, [config.embedding_dim for config in self._configs], pooled)

    def set_learning_rate(self, lr: float) -> None:
        for _, table in self._named():
            table.rows.set_learning_rate(lr)

    def part_weights(self) -> dict[str, torch.Tensor]:
        return {
            f"{name}.{part}": weight.detach()
            for name, table in self._named()
            for part, weight in enumerate(table.rows.split_embedding_weights())
        }

    def part_accumulators(self) -> dict[str, torch.Tensor]:
        return {
            f"{name}.{part}": state.detach()
            for name, table in self._named()
            for part, (state,) in enumerate(table.rows.split_optimizer_states())
        }

    def dense_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        for name, table in self._named():
            if table.projection is not None:
                yield f"tables.{module_name(name)}.projection", table.projection

    def stats(self) -> dict[str, TableStats]:
        return {name: TableStats(sum(table.sizes), table.nbytes) for name, table in self._named()}

    def _named(self) -> Iterator[tuple[str, CompositionalTable]]:
        return ((config.name, self.tables[module_name(config.name)]) for config in self._configs)  # type: ignore[misc]


def mixed_dimensions(ids: Mapping[str, int], dim: int, temperature: float = 0.3) -> dict[str, int]:
    """Choose row widths by feature: features with more ids get narrower rows (Ginart et al., 2019, algorithm 2).

    Args:
        ids: Number of ids of each feature.
        dim: Row width of the feature with the fewest ids.
        temperature: Row widths are proportional to the number of ids to the power of `-temperature`.

    Returns:
        Row widths by feature, rounded to multiples of 4, at least 4.

    Example:
        >>> mixed_dimensions({"hour": 24, "item": 10_000, "user": 10_000_000}, 32)
        {'hour': 32, 'item': 4, 'user': 4}
    """
    fewest = min(ids.values())
    return {
        name: max(MULTIPLE, round(dim * (count / fewest) ** -temperature / MULTIPLE) * MULTIPLE) for name, count in ids.items()
    }
