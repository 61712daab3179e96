"""Catalog entries that tests change."""

from __future__ import annotations

from ml.catalog.load import load_catalog
from ml.catalog.spec import DatasetSpec


def untuned_criteo() -> DatasetSpec:
    """The catalog entry of Criteo without its tuned values, so that those of the recipe files and of advice apply."""
    spec = load_catalog()["criteo"]
    models = {name: choice.model_copy(update={"overrides": {}}) for name, choice in spec.models.items()}
    return spec.model_copy(update={"models": models})
