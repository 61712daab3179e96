"""Tables of a fixed number of rows for small stable vocabularies: TorchRec's own, with its fused optimizer.

An id below the number of rows is its row. Any other, negative ones too, is out of vocabulary and reads that row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torchrec.modules.embedding_configs import EmbeddingBagConfig
from torchrec.modules.fused_embedding_modules import FusedEmbeddingBagCollection
from torchrec.optim.rowwise_adagrad import RowWiseAdagrad
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor, KeyedTensor

from ml.embeddings.interface import TableStats, TrainableBags, features_of, generator_of, in_order, module_name, plain
from ml.schema import OOV_ID


class Lookups:
    """Which row an id reads in F tables, and what was looked up in training.

    touched: bool [sum of rows]. counted: int64 [F, 2], occurrences, and those out of vocabulary.
    """

    def __init__(self, tables: Sequence[EmbeddingBagConfig]) -> None:
        self.keys = features_of(tables)
        self._rows = torch.tensor([table.num_embeddings for table in tables])
        self._first_row = self._rows.cumsum(0) - self._rows
        self.touched = torch.zeros(int(self._rows.sum()), dtype=torch.bool)
        self.counted = torch.zeros(len(tables), 2, dtype=torch.int64)

    def rows(self, features: KeyedJaggedTensor, training: bool) -> KeyedJaggedTensor:
        """The features in the order of the tables, with rows in the place of ids. Raises `KeyError` where one is missing."""
        features = plain(in_order(features, self.keys))
        of_key = torch.tensor(features.length_per_key())
        ids = features.values()
        known = (ids >= 0) & (ids < torch.repeat_interleave(self._rows, of_key))
        rows = torch.where(known, ids, OOV_ID)
        if training:
            strange = torch.repeat_interleave(torch.arange(len(of_key)), of_key)[~known].bincount(minlength=len(of_key))
            self.counted += torch.stack([of_key, strange], 1)
            self.touched[rows + torch.repeat_interleave(self._first_row, of_key)] = True
        return KeyedJaggedTensor(self.keys, rows, lengths=features.lengths(), stride=features.stride())

    def forget(self) -> None:
        self.touched.zero_()
        self.counted.zero_()


class StaticEmbeddingBags(TrainableBags):
    """F tables of one dimension D, a table per feature, with row-wise Adagrad in the backward pass.

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
        super().__init__(lr)
        self._configs, self.lookups = list(tables), Lookups(tables)
        self.collection = FusedEmbeddingBagCollection(
            [replace(table, name=module_name(table.name)) for table in tables],
            RowWiseAdagrad,
            {"lr": lr, "eps": eps},
            device=torch.device("cpu"),
        )
        self._optimizer = self.collection.fused_optimizer()
        for table, weight in zip(tables, self.weights().values(), strict=True):
            weight.uniform_(-init_scale, init_scale, generator=generator_of(seed, table.name))
        for name, state in self.training_state().items():
            if name.endswith(".accumulator"):
                state.fill_(initial_accumulator)

    def forward(self, features: KeyedJaggedTensor) -> KeyedTensor:
        """Pooled rows: KeyedTensor with values float32 [B, F * D], keys in the order of the tables.

        The features' keys may come in any order. Raises `KeyError` where one is missing.
        """
        rows = self.lookups.rows(features, self.training)
        if not rows.stride():  # TorchRec's kernel knows no empty batch
            dims = [config.embedding_dim for config in self._configs]
            return KeyedTensor(rows.keys(), dims, torch.zeros(0, sum(dims)))
        return self.collection(rows)

    def embedding_bag_configs(self) -> list[EmbeddingBagConfig]:
        return self._configs

    def set_learning_rate(self, lr: float) -> None:
        for group in self._optimizer.param_groups:
            group["lr"] = lr  # type: ignore[index]
        self._optimizer.step()  # hands the rate to the kernels; the rows it left to them long ago

    def weights(self) -> dict[str, torch.Tensor]:
        """`<table>.weight`: float32 [rows, D]."""
        held = self.collection.state_dict()
        names = [config.name for config in self._configs]
        return {f"{name}.weight": held[f"embedding_bags.{module_name(name)}.weight"] for name in names}

    def training_state(self) -> dict[str, torch.Tensor]:
        """`<table>.accumulator`: float32 [rows], row-wise Adagrad's sums of mean squares. `touched`: bool [sum of rows].
        `counted`: int64 [F, 2], occurrences in training, and those out of vocabulary."""
        states = self._optimizer.state_dict()["state"]
        names = [config.name for config in self._configs]
        inner = {name: f"{module_name(name)}.weight" for name in names}
        sums = {f"{name}.accumulator": states[key][f"{key}.momentum_1"] for name, key in inner.items()}
        return sums | {"touched": self.lookups.touched, "counted": self.lookups.counted}

    def stats(self) -> dict[str, TableStats]:
        """`unknown` counts what was out of vocabulary."""
        found = {}
        for config, (looked_up, unknown) in zip(self._configs, self.lookups.counted.tolist(), strict=True):
            rows, nbytes = config.num_embeddings, 4 * config.num_embeddings * (config.embedding_dim + 1)
            found[config.name] = TableStats(rows, nbytes, looked_up=looked_up, unknown=unknown)
        return found

    def begin_pass(self) -> None:
        self.lookups.forget()

    def rows_touched(self) -> int:
        return int(self.lookups.touched.sum())
