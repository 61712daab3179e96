"""Scores of all live items for a click, by trained models.

A row of a model is a request and an item. The request has the features of the click's row, and the item has the features of
its own last row. A two-tower model scores all pairs by one matrix product; any other model scores each pair.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from ml.catalog.spec import DatasetSpec
from ml.datasets.collate import batch_from_arrow
from ml.evaluation.scores import ItemScorer
from ml.models.two_tower import TwoTower
from ml.recipes.recipe import Recipe
from ml.retrieval.items import item_columns
from ml.schema import MISSING_ID, FeatureSchema

PAIR_ROWS = 4096


class CannotRank(ValueError):
    """A model cannot score all items for a request; the message says why."""


def item_scorer(spec: DatasetSpec, model: torch.nn.Module, recipe: Recipe, schema: FeatureSchema) -> ItemScorer:
    """Return how a model scores all items.

    Args:
        spec: The dataset.
        model: A trained model in eval mode.
        recipe: Its recipe.
        schema: The features of the dataset.

    Raises:
        CannotRank: A feature of the model crosses columns of the item with others, or no feature describes the item.
    """
    of_items = _of_items(spec, recipe)
    if isinstance(model, TwoTower) and recipe.model.kind == "two_tower":
        return TwoTowerItems(model, recipe.model.item, schema)
    if not of_items:
        raise CannotRank("none of its features describes the item, so all items have one score")
    return PairItems(model, of_items, schema)


def _of_items(spec: DatasetSpec, recipe: Recipe) -> tuple[str, ...]:
    """Names of the features that are computed from columns of the item alone. Raises `CannotRank` for a cross with others."""
    columns = set(item_columns(spec))
    values = {value.name: set(table.columns_of(value)) for table in spec.feature_tables for value in table.values}
    read = {f.name: [f.column] for f in spec.dense}
    read |= {f.name: [f.history] if isinstance(f.history, str) else list(f.inputs) for f in spec.sparse}
    used = {
        name: set().union(*(values.get(one, {one}) for one in inputs))
        for name, inputs in read.items()
        if name not in recipe.exclude_features
    }
    if crossed := [name for name, inputs in used.items() if inputs & columns and inputs - columns]:
        raise CannotRank(f"{crossed} cross columns of the item with others, so items cannot be exchanged")
    return tuple(name for name, inputs in used.items() if inputs and inputs <= columns)


class TwoTowerItems:
    """Scores by dot products of the vectors of users and items."""

    by_pair = False

    def __init__(self, model: TwoTower, item_features: tuple[str, ...], schema: FeatureSchema) -> None:
        self.model, self.item_features, self.schema = model, item_features, schema
        self._index = torch.zeros(0, 0)

    @torch.no_grad()
    def index(self, items: pa.Table) -> None:
        """Embed the items; see `ItemScorer.index`."""
        batch = batch_from_arrow(_with_empty_user(items, self.schema), self.schema)
        self._index = self.model.item_embedding(batch.dense, batch.sparse).T.contiguous()

    @torch.no_grad()
    def scores(self, requests: pa.Table) -> NDArray[np.float32]:
        """Embed the requests' users and multiply; see `ItemScorer.scores`."""
        batch = batch_from_arrow(requests, self.schema)
        return (self.model.user_embedding(batch.dense, batch.sparse) @ self._index).numpy()


class PairItems:
    """Scores by a forward pass of the model for each pair."""

    by_pair = True

    def __init__(self, model: torch.nn.Module, item_features: tuple[str, ...], schema: FeatureSchema) -> None:
        self.model, self.item_features, self.schema = model, item_features, schema
        self._items = pa.table({})

    def index(self, items: pa.Table) -> None:
        """Take the items; see `ItemScorer.index`."""
        self._items = items.select(self.item_features)

    @torch.no_grad()
    def scores(self, requests: pa.Table) -> NDArray[np.float32]:
        """Score each pair; see `ItemScorer.scores`."""
        names = [*self.schema.dense, *self.schema.sparse]
        out = np.empty((requests.num_rows, self._items.num_rows), np.float32)
        for row in range(requests.num_rows):
            for first in range(0, out.shape[1], PAIR_ROWS):
                items = self._items.slice(first, PAIR_ROWS)
                repeated = requests.select(names).take(np.full(items.num_rows, row))
                for name in self.item_features:
                    repeated = repeated.set_column(names.index(name), name, items[name])
                batch = batch_from_arrow(repeated, self.schema)
                out[row, first : first + PAIR_ROWS] = self.model(batch.dense, batch.sparse).numpy()
        return out


def _with_empty_user(items: pa.Table, schema: FeatureSchema) -> pa.Table:
    """Add the features that do not describe the item, with empty values."""
    rows, columns = items.num_rows, {}
    for name in (*schema.dense, *schema.sparse):
        if name in items.column_names:
            columns[name] = items[name]
        elif name in schema.dense:
            columns[name] = pa.array(np.zeros(rows, np.float32))
        else:
            missing = pa.array(np.full(rows, MISSING_ID))
            lists = pa.ListArray.from_arrays(np.arange(rows + 1, dtype=np.int32), missing)
            columns[name] = lists if name in schema.multi else missing
    return pa.table(columns)
