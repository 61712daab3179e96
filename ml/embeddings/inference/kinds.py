"""The kinds of tables that can be quantised: those in which one row makes an embedding."""

from __future__ import annotations

from typing import Literal

from torch import nn

from ml.embeddings.collisionless.bags import CollisionlessEmbeddingBags
from ml.embeddings.fixed.hashed import HashedEmbeddingBags
from ml.embeddings.fixed.static import StaticEmbeddingBags
from ml.embeddings.interface import TrainableBags, bags_of

Kind = Literal["collisionless", "hashed", "static"]
"""How ids find their rows."""

_KINDS: dict[type, Kind] = {
    CollisionlessEmbeddingBags: "collisionless",
    HashedEmbeddingBags: "hashed",
    StaticEmbeddingBags: "static",
}


def kind_of(bags: TrainableBags) -> Kind:
    """Return how ids find their rows in a collection that can be quantised.

    Raises:
        TypeError: For tables in which several rows make an embedding.
    """
    if type(bags) not in _KINDS:
        kinds = ", ".join(_KINDS.values())
        raise TypeError(f"{type(bags).__name__} has no rows to quantise: only {kinds} tables have a row per embedding")
    return _KINDS[type(bags)]


def quantisable(model: nn.Module) -> dict[str, TrainableBags]:
    """Return the collections of a model that can be quantised, by their path."""
    return {path: bags for path, bags in bags_of(model).items() if type(bags) in _KINDS}
