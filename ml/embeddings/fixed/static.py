"""Static embedding tables for small, stable vocabularies. They use TorchRec's tables and its fused optimizer.

An id in [0, number of rows) is its own row. All other ids are out of vocabulary and read the row of `OOV_ID`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torchrec.modules.embedding_configs import EmbeddingBagConfig
from torchrec.modules.fused_embedding_modules import FusedEmbeddingBagCollection
from torchrec.optim.rowwise_adagrad import RowWiseAdagrad
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor, KeyedTensor

from ml.embeddings.fixed.base import FixedBags, features_of, generator_of, module_name, unweighted
from ml.embeddings.fixed.row_steps import RowSteps
from ml.embeddings.interface import TableStats, in_order
from ml.schema import OOV_ID


class VocabularyLookup:
    """Mapping from ids to rows for F tables with fixed vocabularies, which also counts occurrences in training.

    Args:
        tables: The tables; each has one feature.

    Attributes:
        counted: Occurrences in training since the pass began, and how many of them were out of vocabulary, int64 [F, 2].

    Raises:
        ValueError: If a table has several features.
    """

    def __init__(self, tables: Sequence[EmbeddingBagConfig]) -> None:
        self.keys = features_of(tables)
        self._sizes = torch.tensor([table.num_embeddings for table in tables])
        self._first_row = self._sizes.cumsum(0) - self._sizes
        self.counted = torch.zeros(len(tables), 2, dtype=torch.int64)

    def rows(self, features: KeyedJaggedTensor, training: bool) -> KeyedJaggedTensor:
        """Select the features in the order of the tables, and replace their ids with rows.

        Args:
            features: Ids of at least the F features, keys in any order.
            training: Whether to count occurrences.

        Returns:
            The F features, with rows instead of ids.

        Raises:
            KeyError: If a feature is missing.
            ValueError: If the features have weights per sample.
        """
        features = unweighted(in_order(features, self.keys))
        of_key = torch.tensor(features.length_per_key())
        ids = features.values()
        known = (ids >= 0) & (ids < torch.repeat_interleave(self._sizes, of_key))
        if training:
            outside = torch.repeat_interleave(torch.arange(len(of_key)), of_key)[~known].bincount(minlength=len(of_key))
            self.counted += torch.stack([of_key, outside], 1)
        rows = torch.where(known, ids, OOV_ID)
        return KeyedJaggedTensor(self.keys, rows, lengths=features.lengths(), stride=features.stride())

    def mark(self, rows: KeyedJaggedTensor, steps: RowSteps, pooled: torch.Tensor) -> None:
        """Mark the rows of a training step.

        Args:
            rows: The features that `rows` returned.
            steps: Row steps of the tables.
            pooled: The pooled rows, float32 [B, F * D].
        """
        of_key = torch.tensor(rows.length_per_key())
        steps.mark(rows.values() + torch.repeat_interleave(self._first_row, of_key), pooled)


class StaticEmbeddingBags(FixedBags):
    """F static tables, one per feature, with row-wise Adagrad in the backward pass.

    Args:
        tables: The tables; each has one feature.
        init_scale: First weights are drawn uniformly from [-init_scale, init_scale).
        lr: Learning rate, before any schedule.
        eps: Constant that is added to the square root of a row's accumulator.
        initial_accumulator: Initial value of each row's accumulator.
        seed: Seed of the first weights, combined with the table's name.

    Raises:
        ValueError: If a table has several features.

    Example:
        >>> tables = [EmbeddingBagConfig(name="t", embedding_dim=4, num_embeddings=10, feature_names=["f"])]
        >>> bags = StaticEmbeddingBags(tables, init_scale=0.1, lr=0.1, eps=1e-8, initial_accumulator=0.0, seed=0)
        >>> features = KeyedJaggedTensor(["f"], values=torch.tensor([7, -12345]), lengths=torch.tensor([1, 0, 1]))
        >>> bags(features)["f"].shape
        torch.Size([3, 4])
    """

    def __init__(
        self,
        tables: Sequence[EmbeddingBagConfig],
        *,
        init_scale: float,
        lr: float,
        eps: float,
        initial_accumulator: float,
        seed: int,
    ) -> None:
        super().__init__(tables, lr, {t.name: (t.num_embeddings, t.embedding_dim) for t in tables})
        self.lookup = VocabularyLookup(tables)
        self.collection = FusedEmbeddingBagCollection(
            [replace(table, name=module_name(table.name)) for table in tables],
            RowWiseAdagrad,
            {"lr": lr, "eps": eps},
            device=torch.device("cpu"),
        )
        self._optimizer = self.collection.fused_optimizer()
        for name, weight in self.part_weights().items():
            weight.uniform_(-init_scale, init_scale, generator=generator_of(seed, name))
        for accumulator in self.part_accumulators().values():
            accumulator.fill_(initial_accumulator)

    def forward(self, features: KeyedJaggedTensor) -> KeyedTensor:
        """Look up and pool rows.

        Args:
            features: Ids of at least the F features, keys in any order.

        Returns:
            Pooled rows, float32 [B, F * D], keys in the order of the tables.

        Raises:
            KeyError: If a feature is missing.
            ValueError: If the features have weights per sample.
        """
        rows = self.lookup.rows(features, self.training)
        if rows.stride():
            pooled = self.collection(rows)
        else:  # TorchRec's kernel fails for an empty batch
            dims = [config.embedding_dim for config in self._configs]
            pooled = KeyedTensor(rows.keys(), dims, torch.zeros(0, sum(dims)))
        if self.training:
            self.lookup.mark(rows, self.row_steps, pooled.values())
        return pooled

    def set_learning_rate(self, lr: float) -> None:
        for group in self._optimizer.param_groups:
            group["lr"] = lr  # type: ignore[index]
        self._optimizer.step()  # only passes the learning rate to the kernels: backward has already updated the rows

    def part_weights(self) -> dict[str, torch.Tensor]:
        held = self.collection.state_dict()
        return {c.name: held[f"embedding_bags.{module_name(c.name)}.weight"] for c in self._configs}

    def part_accumulators(self) -> dict[str, torch.Tensor]:
        states = self._optimizer.state_dict()["state"]
        inner = {config.name: f"{module_name(config.name)}.weight" for config in self._configs}
        return {name: states[key][f"{key}.momentum_1"] for name, key in inner.items()}

    def training_state(self) -> dict[str, torch.Tensor]:
        """Return live tensors that only training needs.

        Returns:
            The tensors of `FixedBags.training_state`, and `counted`, int64 [F, 2]; see `VocabularyLookup`.
        """
        return super().training_state() | {"counted": self.lookup.counted}

    def stats(self) -> dict[str, TableStats]:
        """Return statistics by table name; `unknown` counts occurrences of ids out of vocabulary."""
        return {
            config.name: TableStats(
                config.num_embeddings,
                4 * config.num_embeddings * (config.embedding_dim + 1),
                looked_up=looked_up,
                unknown=unknown,
            )
            for config, (looked_up, unknown) in zip(self._configs, self.lookup.counted.tolist(), strict=True)
        }

    def begin_pass(self) -> None:
        super().begin_pass()
        self.lookup.counted.zero_()
