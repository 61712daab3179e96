"""Two-tower retrieval: the dot product of a user's vector and an item's vector.

user features ─ bags [B, Fu, D], dense ─ MLP + linear ─ / norm ── u [B, E] ─┐
                                                                            ├─ u · i / temperature ── logits [B]
item features ─ bags [B, Fi, D], dense ─ MLP + linear ─ / norm ── i [B, E] ─┘

Vectors have length 1, so that an index of nearest neighbours returns the items with the largest dot products. The linear layer
beside each MLP passes gradients to the embeddings from the first step on. The recipe chooses the loss: the cross-entropy of
each row's click, or of each row's item among the items of all rows (`sampled_softmax`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import nn
from torchrec.modules.embedding_modules import EmbeddingBagCollectionInterface
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from ml.models.frequency import BatchFrequency
from ml.models.item_bank import ItemBank
from ml.models.mlp import Tower, linear
from ml.models.sparse import SparseArch

_MIN_NORM = 1e-3  # bounds the gradient of the zero vector of a row without known ids


class GathersRows(Protocol):
    """The processes that train together; `ml.distributed.process_group` implements it."""

    @property
    def rank(self) -> int:
        """This process's rank."""
        ...

    def all_gather_rows(self, rows: torch.Tensor) -> tuple[torch.Tensor, int]:
        """Gather the rows of all ranks. Returns them and the index of this rank's first row."""
        ...


def _own_rows(rows: torch.Tensor) -> tuple[torch.Tensor, int]:
    return rows, 0


@dataclass(frozen=True)
class TowerFeatures:
    """Names of the dense and sparse features of each tower. No feature belongs to both towers.

    Attributes:
        user: Features of the user and the context.
        item: Features of the item. Each has one id per row.
        item_id: The sparse feature of `item` that identifies the item.
    """

    user: Sequence[str]
    item: Sequence[str]
    item_id: str


class Side(nn.Module):
    """One tower: an MLP and a linear layer over its features, normalised to length 1.

    Args:
        sparse: Indices of the tower's features among all F sparse features.
        dense: Indices of the tower's features among the dense features.
        dim: Dimension D of the embeddings.
        hidden: Hidden widths of the MLP.
        out: Dimension E of the vectors.
        dropout: As for `MLP`.
    """

    def __init__(
        self, sparse: Sequence[int], dense: Sequence[int], dim: int, hidden: Sequence[int], out: int, dropout: float
    ) -> None:
        super().__init__()
        self.sparse, self.dense = list(sparse), list(dense)
        width = len(sparse) * dim
        self.mlp = Tower(width + len(dense), hidden, out, dropout)
        self.linear = linear(width, out, bias=False) if sparse else None

    def forward(self, dense: torch.Tensor, embedded: torch.Tensor) -> torch.Tensor:
        """Compute vectors from all dense features, float32 [B, I], and embeddings, float32 [B, F, D].

        Returns:
            Vectors of length 1, float32 [B, E]; shorter if the vector before normalisation is nearly zero.
        """
        own = embedded[:, self.sparse].flatten(1)
        out = self.mlp(torch.cat((own, dense[:, self.dense]), 1))
        if self.linear is not None:
            out = out + self.linear(own)
        return nn.functional.normalize(out.float(), dim=1, eps=_MIN_NORM)


class TwoTower(nn.Module):
    """Two towers over any collection of tables.

    Args:
        bags: F features of one dimension D.
        dense: Names of the I dense features.
        features: Which features belong to which tower.
        hidden: Hidden widths of the MLP of each tower.
        out: Dimension E of the vectors.
        temperature: Divisor of the dot products.
        dropout: As for `MLP`.

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
        >>> ids, lengths = torch.tensor([1, 2, 3, 4]), torch.tensor([1, 1, 1, 1])
        >>> sparse = KeyedJaggedTensor(["user", "item"], ids, lengths=lengths)
        >>> features = TowerFeatures(user=["user", "age"], item=["item"], item_id="item")
        >>> model = TwoTower(bags, ["age"], features, hidden=[8], out=4, temperature=0.1)
        >>> model(torch.rand(2, 1), sparse).shape
        torch.Size([2])
        >>> model.item_embedding(torch.rand(2, 1), sparse).shape
        torch.Size([2, 4])
    """

    def __init__(
        self,
        bags: EmbeddingBagCollectionInterface,
        dense: Sequence[str],
        features: TowerFeatures,
        hidden: Sequence[int],
        out: int,
        temperature: float,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.sparse_arch, self.temperature = SparseArch(bags), temperature
        known = self.sparse_arch.features
        sides = []
        for names in (features.user, features.item):
            sparse = [known.index(name) for name in names if name in known]
            own_dense = [list(dense).index(name) for name in names if name in dense]
            sides.append(Side(sparse, own_dense, self.sparse_arch.D, hidden, out, dropout))
        self.user, self.item = sides
        self.item_sparse = [name for name in features.item if name in known]
        self.item_id = features.item_id
        self.frequency = BatchFrequency()
        self.bank = ItemBank(len(self.item_sparse), len(self.item.dense))

    def forward(self, dense: torch.Tensor, sparse: KeyedJaggedTensor) -> torch.Tensor:
        """Compute the logit of each row's user and item.

        Args:
            dense: float32 [B, I].
            sparse: F keys, B rows.

        Returns:
            float32 [B].
        """
        user, item = self.embeddings(dense, sparse)
        return (user * item).sum(1) / self.temperature

    def logits(self, dense: torch.Tensor, sparse: KeyedJaggedTensor) -> torch.Tensor:
        """Compute the logits of the main label, float32 [B, 1]. Further labels of a dataset are not predicted."""
        return self(dense, sparse).unsqueeze(1)

    def embeddings(self, dense: torch.Tensor, sparse: KeyedJaggedTensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute the vectors of each row's user and item, float32 [B, E] each."""
        embedded = self.sparse_arch(sparse)
        return self.user(dense, embedded), self.item(dense, embedded)

    def user_embedding(self, dense: torch.Tensor, sparse: KeyedJaggedTensor) -> torch.Tensor:
        """Compute the vectors of the users, float32 [B, E]. The item's features may be left empty."""
        return self.user(dense, self.sparse_arch(sparse))

    def item_embedding(self, dense: torch.Tensor, sparse: KeyedJaggedTensor) -> torch.Tensor:
        """Compute the vectors of the items, float32 [B, E]. The user's features may be left empty."""
        return self.item(dense, self.sparse_arch(sparse))

    def sampled_softmax(
        self,
        dense: torch.Tensor,
        sparse: KeyedJaggedTensor,
        uniform: int = 0,
        correct: bool = True,
        ranks: GathersRows | None = None,
    ) -> torch.Tensor:
        """Compute the cross-entropy of each row's item among the items of all rows and `uniform` further items.

        An item is among the negatives as often as it is sampled, so `correct` subtracts the log of its expected number of
        samples from its logit (Yi et al., 2019, equation 3; for mixed samples Yang et al., 2020). As in these papers, the
        correction includes the row's own item, although it is always present and not sampled (discussed by Khrylchenko et
        al., 2025, arXiv 2507.09331). Other rows with the same item (accidental hits) are excluded from the negatives.

        Args:
            dense: float32 [B, I], of clicked rows.
            sparse: F keys, B rows.
            uniform: Number of negatives drawn uniformly from the recently seen items.
            correct: Whether to apply the correction.
            ranks: The processes whose rows make up the batch. The first rank embeds the uniform negatives for all.

        Returns:
            float32 [B].
        """
        gather = ranks.all_gather_rows if ranks is not None else _own_rows
        own = sparse[self.item_id].values()
        seen = [gather(features)[0] for features in (own, *self.item_features(dense, sparse))]
        self.frequency.observe(seen[0])
        self.bank.observe(*seen)
        many = uniform and len(self.bank)
        if many:
            drawn = self.bank.draw(uniform)
            if ranks is None or ranks.rank == 0:
                dense, sparse = self._append_items(dense, sparse, *drawn)
        user, item = self.embeddings(dense, sparse)
        (ids, _), (item, begin) = gather(sparse[self.item_id].values()), gather(item)
        with torch.autocast(
            user.device.type, enabled=False
        ):  # cosines over a small temperature need more bits than bfloat16 has
            logits = user[: len(own)] @ item.T / self.temperature
        if correct:
            expected = self.frequency.expected(ids) + (uniform / len(self.bank) if many else 0.0)
            logits = logits - expected.clamp(min=1e-6).log()
        at = torch.arange(len(own), device=own.device)
        twins = own.unsqueeze(1) == ids
        twins[at, begin + at] = False
        return nn.functional.cross_entropy(logits.masked_fill(twins, -torch.inf), begin + at, reduction="none")

    def item_features(self, dense: torch.Tensor, sparse: KeyedJaggedTensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Select the items' features. Returns sparse ids, int64 [B, Fi], and dense features, float32 [B, Ii]."""
        return torch.stack([sparse[name].values() for name in self.item_sparse], 1), dense[:, self.item.dense]

    def item_rows(
        self, dense: torch.Tensor, ids: torch.Tensor, keys: Sequence[str], width: int
    ) -> tuple[torch.Tensor, KeyedJaggedTensor]:
        """Make rows of items without a user, in the form that `item_embedding` takes.

        Args:
            dense: float32 [N, Ii], as `item_features` returns it.
            ids: int64 [N, Fi], as `item_features` returns it.
            keys: Names of all sparse features.
            width: Number I of all dense features.

        Returns:
            Dense features, float32 [N, I], and sparse features of N rows; the user's are zero or empty.
        """
        rows = dense.new_zeros(len(dense), width)
        rows[:, self.item.dense] = dense
        mine = [name in self.item_sparse for name in keys]
        values = [ids[:, self.item_sparse.index(name)] for name in keys if name in self.item_sparse]
        lengths = torch.tensor(mine, dtype=torch.int32, device=ids.device).repeat_interleave(len(ids))
        return rows, KeyedJaggedTensor(list(keys), torch.cat(values), lengths=lengths, stride=len(ids))

    def _append_items(
        self, dense: torch.Tensor, sparse: KeyedJaggedTensor, ids: torch.Tensor, items: torch.Tensor
    ) -> tuple[torch.Tensor, KeyedJaggedTensor]:
        """Append rows of items without a user to the rows of a batch."""
        more_dense, more = self.item_rows(items, ids, sparse.keys(), dense.shape[1])
        values = [part for name in sparse.keys() for part in (sparse[name].values(), more[name].values())]  # noqa: SIM118
        lengths = torch.cat([part.lengths().view(len(sparse.keys()), -1) for part in (sparse, more)], 1)
        both = torch.cat((dense, more_dense))
        return both, KeyedJaggedTensor(sparse.keys(), torch.cat(values), lengths=lengths.reshape(-1), stride=len(both))
