"""Kinds of tables that can be quantised. They store each embedding in one row."""

from __future__ import annotations

from typing import Literal

from torch import nn

from ml.embeddings.collisionless.bags import CollisionlessEmbeddingBags
from ml.embeddings.fixed.hashed import HashedEmbeddingBags
from ml.embeddings.fixed.static import StaticEmbeddingBags
from ml.embeddings.interface import TrainableBags, bags_of

Kind = Literal["collisionless", "hashed", "static"]
"""How a table maps ids to rows."""

_KINDS: dict[type, Kind] = {
    CollisionlessEmbeddingBags: "collisionless",
    HashedEmbeddingBags: "hashed",
    StaticEmbeddingBags: "static",
}


def kind_of(bags: TrainableBags) -> Kind:
    """Return the kind of a collection that can be quantised.

    Raises:
        TypeError: If an embedding combines several rows.
    """
    if type(bags) not in _KINDS:
        kinds = ", ".join(_KINDS.values())
        raise TypeError(f"{type(bags).__name__} cannot be quantised: expected one row per embedding, as in {kinds} tables")
    return _KINDS[type(bags)]


def quantisable(model: nn.Module) -> dict[str, TrainableBags]:
    """Return the collections of a model that can be quantised, by module path."""
    return {path: bags for path, bags in bags_of(model).items() if type(bags) in _KINDS}
