"""The face of every trainable collection of tables: TorchRec's `EmbeddingBagCollectionInterface`, and what training and
snapshots need beyond it. Kinds of tables implement it in their own modules; models and the loop know this face alone.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torchrec.modules.embedding_configs import EmbeddingBagConfig
from torchrec.modules.embedding_modules import EmbeddingBagCollectionInterface
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from ml.embeddings.rules import seed_of


@dataclass(frozen=True)
class TableStats:
    """Of one table. candidates: ids that are counted and have no row yet. The others are sums since `begin_pass`: rows
    admitted, expired, evicted; occurrences looked up in training, and of these such as had no row before their batch."""

    rows: int
    nbytes: int
    candidates: int = 0
    admitted: int = 0
    expired: int = 0
    evicted: int = 0
    looked_up: int = 0
    unknown: int = 0

    @property
    def unknown_rate(self) -> float | None:
        """Share of the occurrences that had no row before their batch: what a server of the tables as they were would miss."""
        return self.unknown / self.looked_up if self.looked_up else None


class TrainableBags(EmbeddingBagCollectionInterface):
    """Pooled embeddings whose rows are updated during the backward pass, by an optimizer of their own."""

    sharded_by_id = False
    """Whether ranks share tables out by id; else by feature, as rows of a fixed number belong to several ids."""

    def __init__(self, lr: float) -> None:
        """lr: the learning rate that a schedule's factor is of."""
        super().__init__()
        self.base_lr = lr

    def is_weighted(self) -> bool:
        return False

    @abstractmethod
    def set_learning_rate(self, lr: float) -> None:
        """Learning rate of the backward passes to come."""

    def set_time(self, now: int) -> None:
        """Event time of the batches to come, microseconds since 1970 UTC, for tables that forget."""
        return None

    @abstractmethod
    def weights(self) -> dict[str, torch.Tensor]:
        """What predictions need, by name: of tables divided by id copies, of others views of the live tensors."""

    @abstractmethod
    def training_state(self) -> dict[str, torch.Tensor]:
        """What only training needs, the optimizer's state first of all, by name."""

    def restore(self, weights: Mapping[str, torch.Tensor], training_state: Mapping[str, torch.Tensor] | None) -> None:
        """Take on what `weights` and `training_state` gave; without the latter, for predictions alone.

        Raises `ValueError`, naming the tensors, where they are not of these tables.
        """
        for own, saved in ((self.weights(), weights), (self.training_state(), training_state)):
            if saved is None:
                continue
            check_fit(own, saved)
            for name, tensor in own.items():
                tensor.copy_(saved[name])

    def dense_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Named parameters that are no table rows and are trained by the model's own optimizer."""
        return iter(())

    @abstractmethod
    def stats(self) -> dict[str, TableStats]:
        """By table."""

    def set_rank_cap(self, rank: int, ranks: int) -> None:
        """Of rows that are shared out by id, so many a table may have here that all ranks together keep to its cap."""
        return None

    @abstractmethod
    def begin_pass(self) -> None:
        """Forget which rows were touched."""

    def end_pass(self) -> None:
        """The day is over: tables that forget do so now."""
        return None

    @abstractmethod
    def rows_touched(self) -> int:
        """Distinct rows looked up in training mode since `begin_pass`."""


def check_fit(own: Mapping[str, torch.Tensor], saved: Mapping[str, torch.Tensor]) -> None:
    """Raises `ValueError`, naming the tensors, unless both have the same names, shapes and dtypes."""
    if own.keys() != saved.keys():
        raise ValueError(f"expected tensors {sorted(own)}, found {sorted(saved)}")
    for name, tensor in own.items():
        if tensor.shape != saved[name].shape or tensor.dtype != saved[name].dtype:
            expected, found = (f"{t.dtype} {tuple(t.shape)}" for t in (tensor, saved[name]))
            raise ValueError(f"{name}: expected {expected}, found {found}")


def features_of(tables: Sequence[EmbeddingBagConfig]) -> list[str]:
    """The feature of each table, in their order. Raises `ValueError` where one has several: then they share its rows, which
    collisionless tables alone know."""
    found = [feature for table in tables for feature in table.feature_names]
    if len(found) != len(tables):
        raise ValueError(f"expected a table per feature, found {len(tables)} tables for {len(found)} features")
    return found


def in_order(features: KeyedJaggedTensor, keys: list[str]) -> KeyedJaggedTensor:
    """Those keys, in that order. Raises `KeyError` where one is missing."""
    if features.keys() == keys:
        return features
    if missing := set(keys) - set(features.keys()):
        raise KeyError(f"sparse features {sorted(missing)} are not in the batch, which has {features.keys()}")
    return features.permute([features.keys().index(key) for key in keys])


def plain(features: KeyedJaggedTensor) -> KeyedJaggedTensor:
    """The same with int64 ids. Raises `ValueError` for weights per sample: kernels would pass them over in silence."""
    if features.weights_or_none() is not None:
        raise ValueError("weights per sample are for collisionless tables")
    if features.values().dtype == torch.int64:
        return features
    return KeyedJaggedTensor(features.keys(), features.values().long(), lengths=features.lengths(), stride=features.stride())


def generator_of(seed: int, table: str) -> torch.Generator:
    """What the first weights of a table of a fixed size are drawn from."""
    return torch.Generator().manual_seed(seed_of(seed, table))


def module_name(table: str) -> str:
    """Modules can not be called `type` or `keys`; tables can."""
    return f"table_{table}"


def bags_of(model: nn.Module) -> dict[str, TrainableBags]:
    """The collections of a model, by their path in it; of one that wraps another, the outer."""
    found: dict[str, TrainableBags] = {}
    for path, module in model.named_modules():
        if isinstance(module, TrainableBags) and not any(path.startswith(f"{outer}.") for outer in found):
            found[path] = module
    return found


def dense_buffers(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Named buffers that are not of tables: what a model remembers beside its parameters."""
    paths = tuple(f"{path}." for path in bags_of(model))
    yield from ((name, buffer) for name, buffer in model.named_buffers() if not (paths and name.startswith(paths)))


def dense_parameters(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Named parameters that an ordinary optimizer trains: all but the rows of tables."""
    tables = bags_of(model)
    paths = tuple(f"{path}." for path in tables)
    yield from ((name, p) for name, p in model.named_parameters() if not (paths and name.startswith(paths)))
    for path, bags in tables.items():
        yield from ((f"{path}.{name}", parameter) for name, parameter in bags.dense_parameters())
