"""DLRM for one request with N candidates: what does not differ between candidates is computed once.

The first hidden layer of the top MLP is a linear function, followed by ReLU, of the vectors x, e_1 ... e_F and of their dot
products. A vector depends on the request, on the item, or on the pair of both, and so does each summand of the layer:

| summands                                                | computed                             |
|---------------------------------------------------------|--------------------------------------|
| vectors of the request, and products of two of them     | once per request                     |
| vectors of the item, and products of two of them        | once per version of item and model   |
| products of a vector of the request and one of the item | per candidate, by one matrix product |
| vectors of the pair, and products with one of them      | per candidate                        |

With the interaction `cat` there are no products. The linear shortcut is split in the same way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, cast

import torch
from torch import nn
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from ml.datasets.batch import Batch
from ml.models.dlrm import DLRM, DotInteraction
from ml.models.int8 import Int8Linear
from ml.models.mlp import Heads

Side = Literal["request", "item", "pair"]
SIDES: tuple[Side, ...] = ("request", "item", "pair")


@dataclass(frozen=True)
class FeatureSides:
    """What the features of a model depend on. Features that are not named depend on the request alone.

    Attributes:
        item: Features that depend on the item alone.
        pair: Features that depend on both.
    """

    item: frozenset[str]
    pair: frozenset[str] = frozenset()

    def of(self, feature: str) -> Side:
        """Return what a feature depends on."""
        return "item" if feature in self.item else "pair" if feature in self.pair else "request"


class RequestState(NamedTuple):
    """What a request contributes to the L logits of each candidate.

    Attributes:
        vectors: float32 [R, D], the vectors that depend on the request.
        hidden: float32 [H], the summands of the first hidden layer, with its bias.
        logit: float32 [L], its summands of the linear shortcut.
    """

    vectors: torch.Tensor
    hidden: torch.Tensor
    logit: torch.Tensor


class ItemStates(NamedTuple):
    """What M items contribute to their logits.

    Attributes:
        vectors: float32 [M, I, D], the vectors that depend on the item.
        hidden: float32 [M, H], the summands of the first hidden layer.
        logit: float32 [M, L], the summands of the linear shortcut.
    """

    vectors: torch.Tensor
    hidden: torch.Tensor
    logit: torch.Tensor

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return sum(tensor.nbytes for tensor in self)


class SplitDLRM:
    """The weights of a DLRM, divided by what their inputs depend on.

    A model whose dense part has changed needs a new instance. Embeddings are read from the model's tables at each call.

    Args:
        model: A DLRM in eval mode, as trained or exported.
        dense: Names of its dense features, in order.
        sides: What each feature depends on.

    Example:
        >>> from torchrec.modules.embedding_configs import EmbeddingBagConfig
        >>> from torchrec.modules.embedding_modules import EmbeddingBagCollection
        >>> tables = [
        ...     EmbeddingBagConfig(name=name, embedding_dim=4, num_embeddings=10, feature_names=[name])
        ...     for name in ("user", "item")
        ... ]
        >>> model = DLRM(EmbeddingBagCollection(tables=tables), dense=1, bottom=[8], top=[8]).eval().requires_grad_(False)
        >>> split = SplitDLRM(model, ["price"], FeatureSides(frozenset({"item", "price"})))
        >>> ids = torch.tensor([7, 7, 7, 1, 2, 3])  # one user and three items
        >>> rows = Batch(torch.rand(3, 1), KeyedJaggedTensor(["user", "item"], ids, lengths=torch.ones(6, dtype=torch.int32)))
        >>> items, request = split.items(rows), split.request(rows.rows(torch.tensor([True, False, False])))
        >>> logits = split.logits(request, items, torch.tensor([2, 0]))
        >>> torch.allclose(logits, model.logits(rows.dense, rows.sparse)[[2, 0]], atol=1e-6)
        True
    """

    def __init__(self, model: DLRM, dense: Sequence[str], sides: FeatureSides) -> None:
        arch = model.sparse_arch
        of_dense = {sides.of(name) for name in dense} if model.has_dense else set[Side]()
        of_x = next(iter(of_dense), "request") if len(of_dense) < 2 else "pair"
        of_features = [sides.of(name) for name in arch.features]
        self._model, self._dim = model, arch.D
        self._has_x = {side: side == of_x for side in SIDES}
        self._features: dict[Side, list[int]] = {
            side: [f for f, own in enumerate(of_features) if own == side] for side in SIDES
        }
        # Vectors are numbered as in the interaction: x is 0, and feature f is f + 1.
        self._vectors: dict[Side, list[int]] = {
            side: [0] * self._has_x[side] + [f + 1 for f in self._features[side]] for side in SIDES
        }
        self._split_first_layer(model)
        self._heads = cast(Heads, model.top[1])
        self._rest = nn.Sequential(*list(cast(nn.Sequential, model.top[0]))[2:])
        shortcut = model.shortcut.weight.view(-1, arch.F, arch.D) if model.shortcut is not None else None  # [L, F, D]
        self._shortcut = {
            side: None if shortcut is None else shortcut[:, own].flatten(1).T for side, own in self._features.items()
        }

    @torch.no_grad()
    def request(self, batch: Batch) -> RequestState:
        """Compute the state of a request from a batch of one row. Features of the item may be missing."""
        vectors = self._read(batch, "request")
        hidden, logit = self._alone(vectors, "request")
        return RequestState(vectors[0], hidden[0] + self._bias, logit[0])

    @torch.no_grad()
    def items(self, batch: Batch) -> ItemStates:
        """Compute the states of M items from a batch of M rows. Features of the request may be missing."""
        vectors = self._read(batch, "item")
        return ItemStates(vectors, *self._alone(vectors, "item"))

    def empty_states(self, count: int) -> ItemStates:
        """Allocate the states of items, to be filled with those that `items` returns."""
        features, hidden = len(self._vectors["item"]), len(self._bias)
        return ItemStates(torch.empty(count, features, self._dim), torch.empty(count, hidden), torch.empty(count, self._labels))

    @property
    def has_pairs(self) -> bool:
        """Whether a feature depends on both, so that `logits` needs `pairs`."""
        return bool(self._vectors["pair"])

    @torch.no_grad()
    def logits(self, request: RequestState, items: ItemStates, rows: torch.Tensor, pairs: Batch | None = None) -> torch.Tensor:
        """Compute the logits of all labels of candidates.

        Args:
            request: The request.
            items: The states of M items, by a model of the same weights.
            rows: The candidates among them, int64 [N].
            pairs: A batch of N rows with the features that depend on both and all dense features; only if `has_pairs`.

        Returns:
            float32 [N, L], the main label first.
        """
        vectors = items.vectors.index_select(0, rows)  # [N, I, D]
        hidden = items.hidden.index_select(0, rows).add_(request.hidden)  # [N, H]
        logit = items.logit.index_select(0, rows).add_(request.logit)
        self._add_products(hidden, vectors, request.vectors, "item")
        if pairs is not None and self.has_pairs:
            own = self._read(pairs, "pair")  # [N, P, D]
            logit += self._add_alone(hidden, own, "pair")
            if self._with_items is not None:
                hidden.addmm_(torch.bmm(own, vectors.transpose(1, 2)).flatten(1), self._with_items)  # [N, P I]
            self._add_products(hidden, own, request.vectors, "pair")
        return self._heads(self._rest(hidden.relu_())) + logit

    @property
    def _labels(self) -> int:
        return self._heads.out_features

    def _split_first_layer(self, model: DLRM) -> None:
        first = cast(nn.Sequential, model.top[0])[0]
        weight, bias = _weights(cast("nn.Linear | Int8Linear", first))  # [width, H], [H]
        self._bias, dim = bias, self._dim
        if not isinstance(model.interaction, DotInteraction):
            blocks = weight.view(-1, dim, weight.shape[1])  # [F + 1, D, H]
            self._linear = {side: blocks[own].flatten(0, 1) for side, own in self._vectors.items()}
            self._products = dict.fromkeys(SIDES)
            self._with_items, self._with_request = None, dict.fromkeys(SIDES)
            return
        count = model.sparse_arch.F + 1
        number = torch.zeros(count, count, dtype=torch.int64)
        first_of, second_of = torch.triu_indices(count, count, offset=1)
        number[first_of, second_of] = number[second_of, first_of] = torch.arange(len(first_of))
        of_products = weight[dim:]

        def between(left: Sequence[int], right: Sequence[int]) -> torch.Tensor | None:
            """Weights of the products of two sets of vectors, [left right, H]; None without products."""
            return of_products[number[left][:, right].flatten()] if left and right else None

        self._linear = {side: weight[:dim] if has else None for side, has in self._has_x.items()}
        self._products: dict[Side, tuple[torch.Tensor, torch.Tensor] | None] = {}
        for side, own in self._vectors.items():
            a, b = torch.triu_indices(len(own), len(own), offset=1)
            of = number[own][:, own][a, b] if own else None
            self._products[side] = None if of is None or not len(of) else (a * len(own) + b, of_products[of])
        self._with_items = between(self._vectors["pair"], self._vectors["item"])
        self._with_request = {side: between(own, self._vectors["request"]) for side, own in self._vectors.items()}

    def _read(self, batch: Batch, side: Side) -> torch.Tensor:
        """Return the vectors of a side, float32 [B, V, D]."""
        parts = []
        if self._has_x[side]:
            dense = batch.dense if self._model.has_dense else batch.dense.new_ones(len(batch), 1)
            parts.append(self._model.bottom(dense).unsqueeze(1))
        if own := self._features[side]:
            arch = self._model.sparse_arch
            names = [arch.features[f] for f in own]
            parts.append(arch(_only(batch.sparse, arch.features, names))[:, own])
        return torch.cat(parts, 1) if parts else batch.dense.new_zeros(len(batch), 0, self._dim)

    def _alone(self, vectors: torch.Tensor, side: Side) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the summands that depend on one side: of the first hidden layer, [B, H], and of the shortcut, [B, L]."""
        hidden = vectors.new_zeros(len(vectors), len(self._bias))
        return hidden, self._add_alone(hidden, vectors, side)

    def _add_alone(self, hidden: torch.Tensor, vectors: torch.Tensor, side: Side) -> torch.Tensor:
        """Add the summands of the first hidden layer that depend on one side. Returns those of the shortcut, [B, L]."""
        linear, products, shortcut = self._linear[side], self._products[side], self._shortcut[side]
        if linear is not None:
            hidden.addmm_(vectors.flatten(1)[:, : len(linear)], linear)
        if products is not None:
            at, weight = products
            hidden.addmm_(torch.bmm(vectors, vectors.transpose(1, 2)).flatten(1)[:, at], weight)
        embedded = vectors[:, self._has_x[side] :].flatten(1)
        return embedded @ shortcut if shortcut is not None else vectors.new_zeros(len(vectors), self._labels)

    def _add_products(self, hidden: torch.Tensor, vectors: torch.Tensor, request: torch.Tensor, side: Side) -> None:
        """Add the summands of the products of a side's vectors, [N, V, D], and those of the request, [R, D]."""
        if (weight := self._with_request[side]) is not None:
            products = vectors.flatten(0, 1) @ request.T  # [N V, R]
            hidden.addmm_(products.view(len(hidden), -1), weight)


def _weights(layer: nn.Linear | Int8Linear) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the weights of a layer, float32 [inputs, outputs], and its biases, float32 [outputs]."""
    if isinstance(layer, Int8Linear):
        return layer.weight.float() * layer.scale, layer.bias
    return layer.weight.T, layer.bias


def _only(sparse: KeyedJaggedTensor, keys: Sequence[str], names: Sequence[str]) -> KeyedJaggedTensor:
    """Return a batch with all keys, of which only some have ids. Tables read nothing for the others."""
    if len(names) == len(keys) or sparse.stride() == 1:  # to read one row more is faster than to select
        return sparse
    rows, offsets = sparse.stride(), sparse.offset_per_key()
    at = {key: number for number, key in enumerate(sparse.keys())}
    lengths = torch.zeros(len(keys), rows, dtype=sparse.lengths().dtype)
    all_lengths, values = sparse.lengths().view(-1, rows), []
    for number, key in enumerate(keys):
        if key in names:
            lengths[number] = all_lengths[at[key]]
            values.append(sparse.values()[offsets[at[key]] : offsets[at[key] + 1]])
    return KeyedJaggedTensor(list(keys), torch.cat(values), lengths=lengths.flatten(), stride=rows)
