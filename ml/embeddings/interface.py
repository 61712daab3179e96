"""Interface of trainable embedding tables, for models, training, snapshots and sync.

A collection holds several tables and implements TorchRec's `EmbeddingBagCollectionInterface`. `TrainableBags` adds an
optimizer, state, statistics and deltas. Each kind of table implements `TrainableBags` in its own module; all other code depends
only on this interface.

Shapes: B is the number of examples in a batch, F the number of features, D the embedding dimension, and N the number of
occurrences of ids in a batch.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import nn
from torchrec.modules.embedding_modules import EmbeddingBagCollectionInterface
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from ml.embeddings.delta import Delta, DeltaReceiver


@dataclass(frozen=True)
class TableStats:
    """Statistics of one table.

    `rows`, `nbytes` and `candidates` are current values. The other fields count events since the beginning of the pass.

    Args:
        rows: Rows in the table.
        nbytes: Bytes of rows, optimizer state and index.
        candidates: Ids that have been counted but have no row yet.
        admitted: Ids that were given a row.
        expired: Rows that were deleted because their ids had not been seen for the table's time to live.
        evicted: Rows that were deleted to keep the table within its cap.
        looked_up: Occurrences of ids in training batches.
        unknown: Occurrences of ids that had no row before the batch, or were out of vocabulary.
    """

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
        """Fraction of occurrences that are `unknown`; None without occurrences.

        This is the miss rate of a server that predicts every batch with the tables from before the batch.
        """
        return self.unknown / self.looked_up if self.looked_up else None


class TrainableBags(EmbeddingBagCollectionInterface, DeltaReceiver):
    """A collection of embedding tables with its own optimizer, which updates rows during the backward pass.

    Use it like TorchRec's `EmbeddingBagCollection`, with two differences. Table rows are not `nn.Parameter`s, so the model's
    optimizer does not see them. Their state is read by `weights` and `training_state`, and restored by `restore`.

    Call backward at most once for each forward in training mode. In evaluation mode, forward does not change the tables.

    Args:
        lr: Learning rate of the rows, before any schedule.

    Example:
        >>> from torchrec.modules.embedding_configs import EmbeddingBagConfig
        >>> from ml.embeddings.collisionless.bags import CollisionlessEmbeddingBags
        >>> tables = [EmbeddingBagConfig(name="item", embedding_dim=4, num_embeddings=1, feature_names=["clicked", "shown"])]
        >>> trainer, server = (CollisionlessEmbeddingBags(tables, lr=0.1, init_scale=0.1) for _ in range(2))

        The batch has two examples. In the first, items 7 and 8 were clicked and item 9 was shown; in the second, nothing was
        clicked and item 7 was shown.

        >>> features = KeyedJaggedTensor(["clicked", "shown"], torch.tensor([7, 8, 9, 7]), lengths=torch.tensor([2, 0, 1, 1]))
        >>> pooled = trainer(features)
        >>> pooled["clicked"].shape
        torch.Size([2, 4])
        >>> pooled.values().sum().backward()  # updates rows 7, 8 and 9

        A server that applies the trainer's deltas makes the same predictions:

        >>> server.apply_delta(trainer.delta(since=server.step))
        True
        >>> bool(torch.equal(server.eval()(features).values(), trainer.eval()(features).values()))
        True
    """

    sharded_by_id = False
    """True if rows are sharded across ranks by id; False if whole tables are assigned to ranks."""

    def __init__(self, lr: float) -> None:
        super().__init__()
        self.base_lr = lr

    def is_weighted(self) -> bool:
        """Return whether features have a weight per id, which only collisionless tables support."""
        return False

    @abstractmethod
    def set_learning_rate(self, lr: float) -> None:
        """Set the learning rate for subsequent backward passes."""

    def set_time(self, now: int) -> None:
        """Set the event time of subsequent batches.

        Args:
            now: Microseconds since 1970 UTC. Tables that expire rows use it to measure age.
        """
        return None

    @abstractmethod
    def weights(self) -> dict[str, torch.Tensor]:
        """Return the tensors that predictions need.

        Returns:
            Tensors by name; the names depend on the kind of table. Fixed-size tables in one process return views of their live
            tensors; all other collections return copies.
        """

    @abstractmethod
    def training_state(self) -> dict[str, torch.Tensor]:
        """Return the tensors that only training needs: optimizer state, counters, and the step of each row's last update.

        Returns:
            Tensors by name; views or copies, as for `weights`.
        """

    def restore(self, weights: Mapping[str, torch.Tensor], training_state: Mapping[str, torch.Tensor] | None) -> None:
        """Restore state that was saved from a collection of the same configuration.

        Args:
            weights: The tensors that `weights` returned.
            training_state: The tensors that `training_state` returned; None restores the weights only.

        Raises:
            ValueError: If names, shapes or dtypes do not match; the message names the tensors.
        """
        for own, saved in ((self.weights(), weights), (self.training_state(), training_state)):
            if saved is None:
                continue
            check_fit(own, saved)
            for name, tensor in own.items():
                tensor.copy_(saved[name])

    def dense_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield the named parameters that are not table rows and that the model's optimizer trains."""
        return iter(())

    @abstractmethod
    def stats(self) -> dict[str, TableStats]:
        """Return statistics by table name."""

    def set_rank_cap(self, rank: int, ranks: int) -> None:
        """Limit the rows of capped tables to one rank's share. It applies to tables that are sharded by id.

        Args:
            rank: Rank of this process.
            ranks: Number of ranks that share the rows.
        """
        return None

    @abstractmethod
    def begin_pass(self) -> None:
        """Reset the counts of `stats` and `rows_touched` to zero."""

    def end_pass(self) -> None:
        """Delete expired rows at the end of a pass. It applies to tables with a time to live."""
        return None

    @abstractmethod
    def rows_touched(self) -> int:
        """Return the number of distinct rows that have been looked up in training since `begin_pass`."""

    @abstractmethod
    def advance_to(self, step: int) -> None:
        """Raise this collection's step to a step that other ranks have reached. A lower step has no effect."""

    @abstractmethod
    def delta(self, since: int) -> Delta:
        """Return the rows that were updated or deleted after a step.

        Args:
            since: An earlier step of this collection, usually the receiver's current step.

        Returns:
            The updated and deleted rows, sorted by key.

        Raises:
            Gap: If `since` is later than the current step, or if older changes are no longer available. The receiver must load
                a snapshot.
        """

    def register_receiver(self, name: str, step: int) -> None:
        """Keep the data that deltas for a receiver need until the receiver acknowledges them.

        Only tables that delete rows keep such data: the tombstones of deleted ids.

        Args:
            name: Name of the receiver, which must stay the same when the receiver restarts.
            step: The receiver's current step, usually the step of the snapshot that it loaded.
        """
        return None

    def set_receiver_ttl(self, seconds: float) -> None:
        """Set the time of silence after which a receiver is dropped. It applies to tables that keep tombstones.

        Args:
            seconds: Seconds on the clock of the tables, which by default is the event time of training.

        Raises:
            ValueError: If the time is not positive.
        """
        return None

    def acknowledge(self, name: str, step: int) -> None:
        """Record that a receiver has applied all changes up to a step and will not request deltas since an earlier step.

        Args:
            name: Name of the receiver.
            step: Step of the latest delta that the receiver has applied.

        Raises:
            Gap: If the receiver was silent for so long that tombstones it needs may have been deleted. It must load a snapshot.
        """
        return None


def check_fit(own: Mapping[str, torch.Tensor], saved: Mapping[str, torch.Tensor]) -> None:
    """Check that saved tensors have the names, shapes and dtypes of a collection's tensors.

    Args:
        own: The collection's tensors, by name.
        saved: The saved tensors, by name.

    Raises:
        ValueError: If names, shapes or dtypes differ; the message names the tensors.
    """
    if own.keys() != saved.keys():
        raise ValueError(f"expected tensors {sorted(own)}, found {sorted(saved)}")
    for name, tensor in own.items():
        if tensor.shape != saved[name].shape or tensor.dtype != saved[name].dtype:
            expected, found = (f"{t.dtype} {tuple(t.shape)}" for t in (tensor, saved[name]))
            raise ValueError(f"{name}: expected {expected}, found {found}")


def in_order(features: KeyedJaggedTensor, keys: list[str]) -> KeyedJaggedTensor:
    """Select features by key, in the order of `keys`.

    Args:
        features: Features of a batch, in any order.
        keys: The features to select.

    Returns:
        The selected features.

    Raises:
        KeyError: If a feature is missing.
    """
    if features.keys() == keys:
        return features
    if missing := set(keys) - set(features.keys()):
        raise KeyError(f"sparse features {sorted(missing)} are not in the batch, which has {features.keys()}")
    return features.permute([features.keys().index(key) for key in keys])


def bags_of(model: nn.Module) -> dict[str, TrainableBags]:
    """Return the table collections of a model by module path. If one collection wraps another, only the outer is returned."""
    found: dict[str, TrainableBags] = {}
    for path, module in model.named_modules():
        if isinstance(module, TrainableBags) and not any(path.startswith(f"{outer}.") for outer in found):
            found[path] = module
    return found


def dense_buffers(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the named buffers of a model that do not belong to a table collection."""
    paths = tuple(f"{path}." for path in bags_of(model))
    yield from ((name, buffer) for name, buffer in model.named_buffers() if not (paths and name.startswith(paths)))


def dense_parameters(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Yield the named parameters of a model that its optimizer trains, which exclude table rows."""
    tables = bags_of(model)
    paths = tuple(f"{path}." for path in tables)
    yield from ((name, p) for name, p in model.named_parameters() if not (paths and name.startswith(paths)))
    for path, bags in tables.items():
        yield from ((f"{path}.{name}", parameter) for name, parameter in bags.dense_parameters())
