"""From a batch's sparse features to their embeddings as one tensor, whatever collection of tables gives them."""

from __future__ import annotations

import torch
from torch import nn
from torchrec.modules.embedding_modules import EmbeddingBagCollectionInterface
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor


class SparseArch(nn.Module):
    """bags: F features of one dimension D. As TorchRec's module of this name, but that nothing is copied where the collection
    gives its features in the order of its tables, as all but sharded ones do."""

    def __init__(self, bags: EmbeddingBagCollectionInterface) -> None:
        super().__init__()
        self.embedding_bag_collection = bags
        self.features = [feature for config in bags.embedding_bag_configs() for feature in config.feature_names]
        dims = {config.embedding_dim for config in bags.embedding_bag_configs()}
        if len(dims) != 1:
            raise ValueError(f"all tables of a model have the same dimension, found {sorted(dims)}")
        self.F, self.D = len(self.features), dims.pop()

    def forward(self, sparse: KeyedJaggedTensor) -> torch.Tensor:
        """Embeddings, float32 [B, F, D], in the order of the tables."""
        pooled = self.embedding_bag_collection(sparse)
        if pooled.keys() == self.features:
            values = pooled.values()
        else:
            values = torch.cat([pooled[feature] for feature in self.features], dim=1)
        return values.view(-1, self.F, self.D)
