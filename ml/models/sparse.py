"""Embeddings of a batch's sparse features as one tensor, from any collection of tables."""

from __future__ import annotations

import torch
from torch import nn
from torchrec.modules.embedding_modules import EmbeddingBagCollectionInterface
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor


class SparseArch(nn.Module):
    """Looks up the sparse features of a batch and stacks their embeddings.

    TorchRec's module of this name always copies the embeddings. This one does not if the collection returns its features in
    the order of its tables, which all except sharded collections do.

    Args:
        bags: A collection of F features in total, whose tables share one dimension D.

    Attributes:
        features: Names of the features, in the order of the tables.
        F: Number of features.
        D: Dimension of the embeddings.

    Raises:
        ValueError: The tables have different dimensions.

    Example:
        >>> import torch
        >>> from torchrec.modules.embedding_configs import EmbeddingBagConfig
        >>> from torchrec.modules.embedding_modules import EmbeddingBagCollection
        >>> from torchrec.sparse.jagged_tensor import KeyedJaggedTensor
        >>> tables = [
        ...     EmbeddingBagConfig(name=name, embedding_dim=4, num_embeddings=10, feature_names=[name])
        ...     for name in ("user", "item")
        ... ]
        >>> bags = EmbeddingBagCollection(tables=tables)
        >>> ids, lengths = torch.tensor([1, 2, 3, 4, 5]), torch.tensor([1, 1, 2, 1])  # the first row has two items
        >>> sparse = KeyedJaggedTensor(["user", "item"], ids, lengths=lengths)
        >>> SparseArch(bags)(sparse).shape  # [B, F, D]
        torch.Size([2, 2, 4])
    """

    def __init__(self, bags: EmbeddingBagCollectionInterface) -> None:
        super().__init__()
        self.embedding_bag_collection = bags
        self.features = [feature for config in bags.embedding_bag_configs() for feature in config.feature_names]
        dims = {config.embedding_dim for config in bags.embedding_bag_configs()}
        if len(dims) != 1:
            raise ValueError(f"all tables of a model must have the same dimension, found {sorted(dims)}")
        self.F, self.D = len(self.features), dims.pop()

    def forward(self, sparse: KeyedJaggedTensor) -> torch.Tensor:
        """Returns embeddings, float32 [B, F, D], in the order of the tables."""
        pooled = self.embedding_bag_collection(sparse)
        if pooled.keys() == self.features:
            values = pooled.values()
        else:
            values = torch.cat([pooled[feature] for feature in self.features], dim=1)
        return values.view(-1, self.F, self.D)
