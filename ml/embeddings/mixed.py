"""A collection that combines table collections of any kinds and looks up each feature in the collection that has it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn
from torchrec.modules.embedding_configs import EmbeddingBagConfig
from torchrec.modules.embedding_modules import EmbeddingBagCollectionInterface
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor, KeyedTensor

from ml.embeddings.delta import Delta, apply_deltas
from ml.embeddings.interface import TrainableBags, in_order


class MixedEmbeddingBags(EmbeddingBagCollectionInterface):
    """Several table collections that a model uses as one.

    Training, snapshots and sync use the inner collections, which `bags_of` finds. Each collection counts its own updates, so
    steps and deltas are mappings from collection names.

    Args:
        kinds: The collections, by name.

    Raises:
        ValueError: If two collections share a feature or a table name.

    Example:
        >>> from ml.embeddings.collisionless.bags import CollisionlessEmbeddingBags
        >>> from ml.embeddings.fixed.static import StaticEmbeddingBags
        >>> items = EmbeddingBagConfig(name="item", embedding_dim=4, num_embeddings=1, feature_names=["item"])
        >>> hours = EmbeddingBagConfig(name="hour", embedding_dim=4, num_embeddings=26, feature_names=["hour"])
        >>> growing = CollisionlessEmbeddingBags([items], lr=0.1, init_scale=0.1)
        >>> static = StaticEmbeddingBags([hours], init_scale=0.1, lr=0.1, eps=1e-8, initial_accumulator=0.0, seed=0)
        >>> bags = MixedEmbeddingBags({"collisionless": growing, "static": static})
        >>> features = KeyedJaggedTensor(["hour", "item"], torch.tensor([7, -1]), lengths=torch.tensor([1, 1]))
        >>> bags(features).keys()
        ['item', 'hour']
        >>> bags(features)["item"].shape
        torch.Size([1, 4])
    """

    def __init__(self, kinds: Mapping[str, TrainableBags]) -> None:
        super().__init__()
        self.kinds = nn.ModuleDict(dict(kinds))
        self._configs = [config for bags in kinds.values() for config in bags.embedding_bag_configs()]
        self._keys = {name: [f for c in bags.embedding_bag_configs() for f in c.feature_names] for name, bags in kinds.items()}
        features = [key for keys in self._keys.values() for key in keys]
        if len(set(features)) != len(features):
            raise ValueError(f"expected each feature in one collection, found {features}")
        tables = [config.name for config in self._configs]
        if len(set(tables)) != len(tables):
            raise ValueError(f"expected tables of different names, found {tables}")

    def forward(self, features: KeyedJaggedTensor) -> KeyedTensor:
        """Look up and pool rows.

        Args:
            features: Ids of at least the F features, keys in any order.

        Returns:
            Pooled rows, float32 [B, sum of the features' dimensions], grouped by collection in the order of `kinds`.

        Raises:
            KeyError: If a feature is missing.
        """
        features = in_order(features, [key for keys in self._keys.values() for key in keys])
        shares = features.split([len(keys) for keys in self._keys.values()])
        parts: list[KeyedTensor] = [bags(share) for bags, share in zip(self.kinds.values(), shares, strict=True)]
        keys = [key for keys in self._keys.values() for key in keys]
        lengths = [length for part in parts for length in part.length_per_key()]
        return KeyedTensor(keys, lengths, torch.cat([part.values() for part in parts], dim=1))

    def embedding_bag_configs(self) -> list[EmbeddingBagConfig]:
        return self._configs

    def is_weighted(self) -> bool:
        return False

    @property
    def steps(self) -> dict[str, int]:
        """The step of each collection, by its name."""
        return {name: bags.step for name, bags in self._bags().items()}

    def delta(self, since: Mapping[str, int]) -> dict[str, Delta]:
        """Return the delta of each collection since its step in `since`; see `TrainableBags.delta`."""
        return {name: bags.delta(since[name]) for name, bags in self._bags().items()}

    def apply_delta(self, deltas: Mapping[str, Delta]) -> bool:
        """Apply the delta of each collection; see `DeltaReceiver.apply_delta`. If one is refused, no collection is changed.

        Args:
            deltas: One delta per collection, by name.

        Returns:
            True if a collection was changed.

        Raises:
            Gap: If a delta begins after its collection's step. Nothing is changed.
            ValueError: If names differ, or a delta does not match its collection's tables. Nothing is changed.
        """
        return apply_deltas(self._bags(), deltas)

    def _bags(self) -> dict[str, TrainableBags]:
        return {name: bags for name, bags in self.kinds.items() if isinstance(bags, TrainableBags)}
