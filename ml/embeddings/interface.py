"""The interface of trainable embedding tables: what models, training, snapshots and sync need from every kind of table.

A collection holds several tables and implements TorchRec's `EmbeddingBagCollectionInterface`. `TrainableBags` adds to it the
optimizer, the state, statistics and deltas. The kinds of tables implement it in their own modules; everything else uses this
interface alone.

Letters in shapes: B examples of a batch, F features, D weights of an embedding, N occurrences of ids.
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
    """Statistics of one table. Counts other than `rows` and `candidates` are of the running pass.

    Args:
        rows: Rows in the table.
        nbytes: Bytes of rows, optimizer state and index.
        candidates: Ids that have been counted and have no row yet.
        admitted: Ids that were given a row.
        expired: Rows that were deleted because their ids had not been seen for the table's time to live.
        evicted: Rows that were deleted to keep the table within its cap.
        looked_up: Occurrences of ids in training batches.
        unknown: Occurrences whose id had no row before its batch, or was out of vocabulary.
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
        """Fraction of occurrences without a row before their batch: what a server of the tables from before it would miss."""
        return self.unknown / self.looked_up if self.looked_up else None


class TrainableBags(EmbeddingBagCollectionInterface, DeltaReceiver):
    """A collection of embedding tables whose rows are updated during the backward pass, by an optimizer of their own.

    Use it like TorchRec's `EmbeddingBagCollection`. The differences: table rows are not `nn.Parameter`s, so the model's
    optimizer does not see them, and their state is read and restored by `weights`, `training_state` and `restore`.

    Every forward in training mode must be followed by at most one backward. Evaluation mode changes nothing.

    Args:
        lr: Learning rate of the rows, before any schedule.

    Example:
        >>> from torchrec.modules.embedding_configs import EmbeddingBagConfig
        >>> from ml.embeddings.collisionless.bags import CollisionlessEmbeddingBags
        >>> tables = [EmbeddingBagConfig(name="item", embedding_dim=4, num_embeddings=1, feature_names=["clicked", "shown"])]
        >>> trainer, server = (CollisionlessEmbeddingBags(tables, lr=0.1, init_scale=0.1) for _ in range(2))

        Two examples: the first clicked items 7 and 8 and was shown 9, the second clicked nothing and was shown 7.

        >>> features = KeyedJaggedTensor(["clicked", "shown"], torch.tensor([7, 8, 9, 7]), lengths=torch.tensor([2, 0, 1, 1]))
        >>> pooled = trainer(features)
        >>> pooled["clicked"].shape
        torch.Size([2, 4])
        >>> pooled.values().sum().backward()  # updates rows 7, 8 and 9

        A replica that applies deltas predicts as the trainer does:

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
        """Whether features carry a weight per id. Only collisionless tables read them."""
        return False

    @abstractmethod
    def set_learning_rate(self, lr: float) -> None:
        """Set the learning rate of the following backward passes."""

    def set_time(self, now: int) -> None:
        """Set the event time of the following batches.

        Args:
            now: Microseconds since 1970 UTC. Tables that expire rows measure age by it.
        """
        return None

    @abstractmethod
    def weights(self) -> dict[str, torch.Tensor]:
        """Return all that predictions need.

        Returns:
            Tensors by name; which ones depends on the kind of table. Tables of a fixed size give views of the live tensors,
            others copies.
        """

    @abstractmethod
    def training_state(self) -> dict[str, torch.Tensor]:
        """Return all that training needs besides `weights`: optimizer state, counters and the steps of updates.

        Returns:
            Tensors by name; views or copies as in `weights`.
        """

    def restore(self, weights: Mapping[str, torch.Tensor], training_state: Mapping[str, torch.Tensor] | None) -> None:
        """Restore the state of a collection that was built from the same configuration.

        Args:
            weights: What `weights` returned.
            training_state: What `training_state` returned; None restores the tables for predictions only.

        Raises:
            ValueError: If names, shapes or dtypes do not fit; the message names the tensors.
        """
        for own, saved in ((self.weights(), weights), (self.training_state(), training_state)):
            if saved is None:
                continue
            check_fit(own, saved)
            for name, tensor in own.items():
                tensor.copy_(saved[name])

    def dense_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield the named parameters that are not table rows, and are trained by the model's own optimizer."""
        return iter(())

    @abstractmethod
    def stats(self) -> dict[str, TableStats]:
        """Return the statistics of each table, by name."""

    def set_rank_cap(self, rank: int, ranks: int) -> None:
        """Limit the rows of capped tables to one rank's share, for rows that are sharded by id.

        Args:
            rank: This process's rank.
            ranks: Number of processes that share the rows.
        """
        return None

    @abstractmethod
    def begin_pass(self) -> None:
        """Start the counts of `stats` and `rows_touched` at zero."""

    def end_pass(self) -> None:
        """Delete the rows that have expired by the end of a pass, in tables that expire rows."""
        return None

    @abstractmethod
    def rows_touched(self) -> int:
        """Return the number of distinct rows that were looked up in training since `begin_pass`."""

    @abstractmethod
    def advance_to(self, step: int) -> None:
        """Raise `step` to a value that other ranks have reached, so that ranks that share rows are at the same step."""

    @abstractmethod
    def delta(self, since: int) -> Delta:
        """Return what changed after a step.

        Args:
            since: A step that the collection was at before, usually the one that the receiver is at.

        Returns:
            The rows that were updated or deleted, keys in ascending order.

        Raises:
            Gap: If `since` is a later step, or one before the oldest known change: the receiver needs a snapshot.
        """

    def register_receiver(self, name: str, step: int) -> None:
        """Keep everything that deltas for a receiver need until it acknowledges them.

        Only tables that delete rows have anything to keep: tombstones of deleted ids.

        Args:
            name: Identifies the receiver across its restarts.
            step: The step that it is at: that of the snapshot that it loaded.
        """
        return None

    def acknowledge(self, name: str, step: int) -> None:
        """Record that a receiver has applied all changes up to a step, and will request no delta since an earlier one.

        Args:
            name: The receiver's name.
            step: The step of the latest delta that it applied.

        Raises:
            Gap: If tombstones that the receiver needs may be gone, because it was silent for too long: it needs a snapshot.
        """
        return None


def check_fit(own: Mapping[str, torch.Tensor], saved: Mapping[str, torch.Tensor]) -> None:
    """Check that saved tensors can be copied into those of a collection.

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

    Raises:
        KeyError: If a feature is missing.
    """
    if features.keys() == keys:
        return features
    if missing := set(keys) - set(features.keys()):
        raise KeyError(f"sparse features {sorted(missing)} are not in the batch, which has {features.keys()}")
    return features.permute([features.keys().index(key) for key in keys])


def bags_of(model: nn.Module) -> dict[str, TrainableBags]:
    """Return the collections of tables of a model by their path in it. Of a collection that wraps another, the outer one."""
    found: dict[str, TrainableBags] = {}
    for path, module in model.named_modules():
        if isinstance(module, TrainableBags) and not any(path.startswith(f"{outer}.") for outer in found):
            found[path] = module
    return found


def dense_buffers(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the named buffers of a model that are not in a collection of tables."""
    paths = tuple(f"{path}." for path in bags_of(model))
    yield from ((name, buffer) for name, buffer in model.named_buffers() if not (paths and name.startswith(paths)))


def dense_parameters(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Yield the named parameters that the model's own optimizer trains: all except table rows."""
    tables = bags_of(model)
    paths = tuple(f"{path}." for path in tables)
    yield from ((name, p) for name, p in model.named_parameters() if not (paths and name.startswith(paths)))
    for path, bags in tables.items():
        yield from ((f"{path}.{name}", parameter) for name, parameter in bags.dense_parameters())
