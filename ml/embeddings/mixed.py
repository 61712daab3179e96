"""Several collections of tables, of whatever kinds, as one: each feature goes to the collection that has it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn
from torchrec.modules.embedding_configs import EmbeddingBagConfig
from torchrec.modules.embedding_modules import EmbeddingBagCollectionInterface
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor, KeyedTensor

from ml.embeddings.interface import TrainableBags, in_order


class MixedEmbeddingBags(EmbeddingBagCollectionInterface):
    """kinds: collections by name. Training and snapshots see each of them, as `bags_of` finds them; models see this one."""

    def __init__(self, kinds: Mapping[str, TrainableBags]) -> None:
        super().__init__()
        self.kinds = nn.ModuleDict(dict(kinds))
        self._configs = [config for bags in kinds.values() for config in bags.embedding_bag_configs()]
        self._keys = {name: [f for c in bags.embedding_bag_configs() for f in c.feature_names] for name, bags in kinds.items()}
        whole = [key for keys in self._keys.values() for key in keys]
        if len(set(whole)) != len(whole):
            raise ValueError(f"expected each feature in one collection, found {whole}")
        tables = [config.name for config in self._configs]
        if len(set(tables)) != len(tables):
            raise ValueError(f"expected tables of different names, found {tables}")

    def forward(self, features: KeyedJaggedTensor) -> KeyedTensor:
        """KeyedTensor of all features, those of a kind together. Raises `KeyError` where one is missing."""
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
