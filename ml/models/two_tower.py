"""Two Tower retrieval: a vector for a user in her context, one for an item, and their dot product.

user features ─ bags [B, Fu, D], dense ─ MLP + linear ─ / norm ── u [B, E] ─┐
                                                                            ├─ u · i / temperature ── logits [B]
item features ─ bags [B, Fi, D], dense ─ MLP + linear ─ / norm ── i [B, E] ─┘

Vectors have length 1, so that an index of nearest neighbours finds what the dot product ranks. The linear part beside each MLP
lets embeddings meet from the first step on. What it
learns from is chosen by the recipe: one row at a time, or each row's item among those of all rows (`sampled_softmax`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import nn
from torchrec.modules.embedding_modules import EmbeddingBagCollectionInterface
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from ml.models.frequency import BatchFrequency
from ml.models.item_bank import ItemBank
from ml.models.mlp import Tower, linear
from ml.models.sparse import SparseArch

_SHORT = 1e-3  # a vector of zeros, as of ids without rows alone, has a gradient of one over that


class GathersRows(Protocol):
    """Processes that train together, as `ml.distributed.process_group` has them."""

    @property
    def rank(self) -> int: ...

    def all_gather_rows(self, rows: torch.Tensor) -> tuple[torch.Tensor, int]: ...


def _alone(rows: torch.Tensor) -> tuple[torch.Tensor, int]:
    return rows, 0


class Side(nn.Module):
    """One tower. sparse: places of its features among all F. dense: places among the dense features."""

    def __init__(
        self, sparse: Sequence[int], dense: Sequence[int], dim: int, hidden: Sequence[int], out: int, dropout: float
    ) -> None:
        super().__init__()
        self.sparse, self.dense = list(sparse), list(dense)
        width = len(sparse) * dim
        self.mlp = Tower(width + len(dense), hidden, out, dropout)
        self.linear = linear(width, out, bias=False) if sparse else None

    def forward(self, dense: torch.Tensor, embedded: torch.Tensor) -> torch.Tensor:
        """dense: float32 [B, I]; embedded: float32 [B, F, D]. Gives vectors of length 1, float32 [B, out]; of next to nothing
        shorter ones."""
        own = embedded[:, self.sparse].flatten(1)
        out = self.mlp(torch.cat((own, dense[:, self.dense]), 1))
        if self.linear is not None:
            out = out + self.linear(own)
        return nn.functional.normalize(out.float(), dim=1, eps=_SHORT)


class TwoTower(nn.Module):
    """bags: F features of one dimension D. user, item: names of each tower's features, dense and sparse, none in both; those of
    items have one id an example. item_id: which of them says what the item is. dense: names of the dense features. hidden:
    widths of both towers' MLPs. out: E.
    """

    def __init__(
        self,
        bags: EmbeddingBagCollectionInterface,
        dense: Sequence[str],
        user: Sequence[str],
        item: Sequence[str],
        item_id: str,
        hidden: Sequence[int],
        out: int,
        temperature: float,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.sparse_arch, self.temperature = SparseArch(bags), temperature
        known = self.sparse_arch.features
        sides = []
        for names in (user, item):
            sparse = [known.index(name) for name in names if name in known]
            places = [list(dense).index(name) for name in names if name in dense]
            sides.append(Side(sparse, places, self.sparse_arch.D, hidden, out, dropout))
        self.user, self.item = sides
        self.item_sparse = [name for name in item if name in known]
        self.item_id = item_id
        self.frequency = BatchFrequency()
        self.bank = ItemBank(len(self.item_sparse), len(self.item.dense))

    def forward(self, dense: torch.Tensor, sparse: KeyedJaggedTensor) -> torch.Tensor:
        """dense: float32 [B, I]. Gives logits, float32 [B], of each row's user and item."""
        user, item = self.embeddings(dense, sparse)
        return (user * item).sum(1) / self.temperature

    def embeddings(self, dense: torch.Tensor, sparse: KeyedJaggedTensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Vectors of the rows' users and of their items, float32 [B, E] each."""
        embedded = self.sparse_arch(sparse)
        return self.user(dense, embedded), self.item(dense, embedded)

    def user_embedding(self, dense: torch.Tensor, sparse: KeyedJaggedTensor) -> torch.Tensor:
        """Vectors of the rows' users, float32 [B, E]; bags of the items' features may be empty."""
        return self.user(dense, self.sparse_arch(sparse))

    def item_embedding(self, dense: torch.Tensor, sparse: KeyedJaggedTensor) -> torch.Tensor:
        """Vectors of the rows' items, float32 [B, E]; bags of the users' features may be empty."""
        return self.item(dense, self.sparse_arch(sparse))

    def sampled_softmax(
        self,
        dense: torch.Tensor,
        sparse: KeyedJaggedTensor,
        uniform: int = 0,
        correct: bool = True,
        ranks: GathersRows | None = None,
    ) -> torch.Tensor:
        """Cross-entropy of each row's own item among the items of all rows and `uniform` more, float32 [B].

        An item stands among the negatives as often as it is sampled; `correct` takes the log of how often that is expected to
        be off its logits (Yi et al., 2019, equation 3; of mixed samples, Yang et al., 2020). As there, the row's own item is no
        exception, though it is always there and not drawn (Khrylchenko et al., 2025, arXiv 2507.09331, discuss that). Another
        row with the same item is no negative (an accidental hit).

        ranks: whose rows make up the batch; what is drawn besides, the first embeds for all.
        """
        everyone = ranks.all_gather_rows if ranks is not None else _alone
        own = sparse[self.item_id].values()
        seen = [everyone(features)[0] for features in (own, *self.item_features(dense, sparse))]
        self.frequency.observe(seen[0])
        self.bank.observe(*seen)
        many = uniform and len(self.bank)
        if many:
            drawn = self.bank.draw(uniform)
            if ranks is None or ranks.rank == 0:
                dense, sparse = self._beside(dense, sparse, *drawn)
        user, item = self.embeddings(dense, sparse)
        (ids, _), (item, begin) = everyone(sparse[self.item_id].values()), everyone(item)
        with torch.autocast(user.device.type, enabled=False):  # cosines over a small temperature want more than eight bits
            logits = user[: len(own)] @ item.T / self.temperature
        if correct:
            expected = self.frequency.expected(ids) + (uniform / len(self.bank) if many else 0.0)
            logits = logits - expected.clamp(min=1e-6).log()
        at = torch.arange(len(own), device=own.device)
        twins = own.unsqueeze(1) == ids
        twins[at, begin + at] = False
        return nn.functional.cross_entropy(logits.masked_fill(twins, -torch.inf), begin + at, reduction="none")

    def item_features(self, dense: torch.Tensor, sparse: KeyedJaggedTensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Ids of the items' sparse features, int64 [B, Fi], and their dense features, float32 [B, Ii]."""
        return torch.stack([sparse[name].values() for name in self.item_sparse], 1), dense[:, self.item.dense]

    def item_rows(
        self, dense: torch.Tensor, ids: torch.Tensor, keys: Sequence[str], width: int
    ) -> tuple[torch.Tensor, KeyedJaggedTensor]:
        """Rows of items without a user, as models take them, from what `item_features` gives.

        dense: float32 [N, Ii]. ids: int64 [N, Fi]. keys: of all sparse features; width: how many dense features there are.
        """
        rows = dense.new_zeros(len(dense), width)
        rows[:, self.item.dense] = dense
        mine = [name in self.item_sparse for name in keys]
        values = [ids[:, self.item_sparse.index(name)] for name in keys if name in self.item_sparse]
        lengths = torch.tensor(mine, dtype=torch.int32, device=ids.device).repeat_interleave(len(ids))
        return rows, KeyedJaggedTensor(list(keys), torch.cat(values), lengths=lengths, stride=len(ids))

    def _beside(
        self, dense: torch.Tensor, sparse: KeyedJaggedTensor, ids: torch.Tensor, items: torch.Tensor
    ) -> tuple[torch.Tensor, KeyedJaggedTensor]:
        """The rows, and behind them rows of some items without a user."""
        more_dense, more = self.item_rows(items, ids, sparse.keys(), dense.shape[1])
        values = [part for name in sparse.keys() for part in (sparse[name].values(), more[name].values())]  # noqa: SIM118
        lengths = torch.cat([part.lengths().view(len(sparse.keys()), -1) for part in (sparse, more)], 1)
        both = torch.cat((dense, more_dense))
        return both, KeyedJaggedTensor(sparse.keys(), torch.cat(values), lengths=lengths.reshape(-1), stride=len(both))
