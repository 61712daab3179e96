"""Base class of tables with a fixed number of rows: live state tensors, seeded first weights, and deltas by row number.

Subclasses look up and train rows with FBGEMM's fused kernels.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence

import torch
from torchrec.modules.embedding_configs import EmbeddingBagConfig
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from ml.embeddings.delta import Delta, TableDelta, TableShape
from ml.embeddings.fixed.row_steps import RowSteps
from ml.embeddings.interface import TrainableBags
from ml.embeddings.rules import seed_of


class FixedBags(TrainableBags):
    """F tables with a fixed number of rows, one table per feature, with row-wise Adagrad in the backward pass.

    A table consists of one part table, or of several if an embedding combines several rows. A part table is named
    `<table>.<part>`; if it is the only one, it has the table's name.

    Args:
        tables: The tables; each has one feature.
        lr: Learning rate of the rows, before any schedule.
        parts: Number of rows and row width of each part table by name, in the order of the tables.

    Raises:
        ValueError: If a table has several features. Only collisionless tables can share rows between features.
    """

    def __init__(self, tables: Sequence[EmbeddingBagConfig], lr: float, parts: Mapping[str, tuple[int, int]]) -> None:
        super().__init__(lr)
        self._configs, self._keys = list(tables), features_of(tables)
        self._shapes = {name: TableShape(width, rows) for name, (rows, width) in parts.items()}
        self.row_steps = RowSteps({name: rows for name, (rows, _) in parts.items()})

    @abstractmethod
    def part_weights(self) -> dict[str, torch.Tensor]:
        """Return the live weights by part table, float32 [rows, width]."""

    @abstractmethod
    def part_accumulators(self) -> dict[str, torch.Tensor]:
        """Return row-wise Adagrad's live sums of mean squared gradients by part table, float32 [rows]."""

    def embedding_bag_configs(self) -> list[EmbeddingBagConfig]:
        return self._configs

    def set_time(self, now: int) -> None:
        self.row_steps.set_time(now)

    def weights(self) -> dict[str, torch.Tensor]:
        """Return live tensors that predictions need.

        Returns:
            `<part>.weight`, float32 [rows, width], for each part table. `step`, int64 [2], holds the step and the latest event
            time in microseconds since 1970 UTC.
        """
        return {f"{name}.weight": rows for name, rows in self.part_weights().items()} | {"step": self.row_steps.clock}

    def training_state(self) -> dict[str, torch.Tensor]:
        """Return live tensors that only training needs.

        Returns:
            For each part table, `<part>.accumulator`, float32 [rows], row-wise Adagrad's sums of mean squared gradients, and
            `<part>.row_step`, int32 [rows]. `pass` is int64 [2]; see `RowSteps.state`.
        """
        sums = {f"{name}.accumulator": rows for name, rows in self.part_accumulators().items()}
        return sums | self.row_steps.state()

    def restore(self, weights: Mapping[str, torch.Tensor], training_state: Mapping[str, torch.Tensor] | None) -> None:
        super().restore(weights, training_state)
        if training_state is None:
            self.row_steps.reset()

    def begin_pass(self) -> None:
        self.row_steps.begin_pass()

    def rows_touched(self) -> int:
        return sum(self.row_steps.touched().values())

    @property
    def step(self) -> int:
        return self.row_steps.step

    def advance_to(self, step: int) -> None:
        self.row_steps.advance_to(step)

    def delta_shapes(self) -> Mapping[str, TableShape]:
        return self._shapes

    def delta(self, since: int) -> Delta:
        changed, weights = self.row_steps.changed(since), self.part_weights()
        tables = {name: row_delta(rows, weights[name]) for name, rows in changed.items()}
        return Delta(since, self.step, self.row_steps.time, tables)

    def _write_delta(self, delta: Delta) -> None:
        weights, steps = self.part_weights(), self.row_steps.by_table()
        for name, table in delta.tables.items():
            weights[name][table.keys] = table.float_weights()
            steps[name][table.keys] = delta.step
        self.row_steps.advance_to(delta.step)
        self.row_steps.set_time(delta.time)


def row_delta(rows: torch.Tensor, weights: torch.Tensor) -> TableDelta:
    """Return the delta of a table that contains some of its rows.

    Args:
        rows: Row numbers, int64 [U].
        weights: Weights of the table, float32 [rows, width].
    """
    return TableDelta(rows, weights[rows].cpu(), None, torch.empty(0, dtype=torch.int64))


def features_of(tables: Sequence[EmbeddingBagConfig]) -> list[str]:
    """Return the feature of each table.

    Raises:
        ValueError: If a table does not have exactly one feature.
    """
    found = [feature for table in tables for feature in table.feature_names]
    if len(found) != len(tables):
        raise ValueError(f"expected one table per feature, found {len(tables)} tables for {len(found)} features")
    return found


def unweighted(features: KeyedJaggedTensor) -> KeyedJaggedTensor:
    """Return features with int64 ids.

    Raises:
        ValueError: If the features have weights per sample, which the kernels would silently ignore.
    """
    if features.weights_or_none() is not None:
        raise ValueError("only collisionless tables support weights per sample")
    if features.values().dtype == torch.int64:
        return features
    return KeyedJaggedTensor(features.keys(), features.values().long(), lengths=features.lengths(), stride=features.stride())


def generator_of(seed: int, table: str) -> torch.Generator:
    """Return the random generator for a table's first weights."""
    return torch.Generator().manual_seed(seed_of(seed, table))


def module_name(table: str) -> str:
    """Return the submodule name of a table. Without the prefix, tables named `type` or `keys` would clash with methods."""
    return f"table_{table}"
