"""Scores of all live items for a click, by trained models.

A row of a model is a request and an item. The request has the features of the click's row, and the item has the features of
its own last row. Features of both, and values of feature tables, are computed for each pair as of the click. A two-tower model
scores all pairs by one matrix product; any other model scores each pair.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from ml.catalog.spec import DatasetSpec
from ml.datasets.collate import batch_from_arrow
from ml.evaluation.ranking.pair_features import feature_inputs
from ml.evaluation.scores import ItemScorer, PairTable
from ml.models.two_tower import TwoTower
from ml.recipes.recipe import Recipe
from ml.retrieval.items import item_columns
from ml.schema import MISSING_ID, FeatureSchema

PAIR_ROWS = 4096
BLOCK_PAIRS = 200_000
"""Pairs whose features are computed at once, which bounds memory."""


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
        CannotRank: No feature describes the item, a feature of a two-tower model depends on the user and the item, or a feature
            crosses columns that are not columns of the log.
    """
    of_items, of_pairs = _described(spec, recipe, isinstance(model, TwoTower))
    if isinstance(model, TwoTower) and recipe.model.kind == "two_tower":
        return TwoTowerItems(model, recipe.model.item, schema)
    if not of_items and not of_pairs:
        raise CannotRank("none of its features describes the item, so all items have one score")
    return PairItems(model, of_items, schema, of_pairs)


def _described(spec: DatasetSpec, recipe: Recipe, is_two_tower: bool) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of the features that are exchanged with the item, and of those that are computed for each pair."""
    columns, log = set(item_columns(spec)), set(spec.examples_log.source.columns)
    values = {value.name: set(table.columns_of(value)) for table in spec.feature_tables for value in table.values}
    of_items, of_pairs = [], []
    for name, inputs in feature_inputs(spec).items():
        if name in recipe.exclude_features:
            continue
        used = set().union(*(values.get(column, {column}) for column in inputs))
        is_crossed = bool(used & columns and used - columns)
        if is_crossed and is_two_tower:
            raise CannotRank(f"{name} depends on the user and the item, so neither tower of a two-tower model can have it")
        if is_crossed or (used & columns and set(inputs) & set(values) and not is_two_tower):
            if other := sorted(set(inputs) - set(values) - log):
                raise CannotRank(f"{name} crosses {other}, which are not columns of the log")
            of_pairs.append(name)
        elif used and used <= columns:
            of_items.append(name)
    return tuple(of_items), tuple(of_pairs)


class TwoTowerItems:
    """Scores by dot products of the vectors of users and items."""

    by_pair = False
    pair_features = ()

    def __init__(self, model: TwoTower, item_features: tuple[str, ...], schema: FeatureSchema) -> None:
        self.model, self.item_features, self.schema = model, item_features, schema
        self._index = torch.zeros(0, 0)

    @torch.no_grad()
    def index(self, items: pa.Table, pairs: PairTable | None = None) -> None:
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

    def __init__(
        self, model: torch.nn.Module, item_features: tuple[str, ...], schema: FeatureSchema, pair_features: tuple[str, ...] = ()
    ) -> None:
        self.model, self.item_features, self.schema = model, item_features, schema
        self.pair_features = pair_features
        self._items, self._count = pa.table({}), 0
        self._pairs: PairTable | None = None

    def index(self, items: pa.Table, pairs: PairTable | None = None) -> None:
        """Take the items; see `ItemScorer.index`."""
        self._items, self._count, self._pairs = items.select(self.item_features), items.num_rows, pairs

    @torch.no_grad()
    def scores(self, requests: pa.Table) -> NDArray[np.float32]:
        """Score each pair; see `ItemScorer.scores`."""
        out = np.empty((requests.num_rows, self._count), np.float32)
        step = max(1, BLOCK_PAIRS // max(1, self._count))
        for first in range(0, len(out), step):
            block = requests.slice(first, step)
            pairs = self._pairs(block) if self.pair_features and self._pairs is not None else None
            for row in range(block.num_rows):
                of_row = pairs.slice(row * self._count, self._count) if pairs is not None else None
                out[first + row] = self._scores(block.slice(row, 1), of_row)
        return out

    def _scores(self, request: pa.Table, pairs: pa.Table | None) -> NDArray[np.float32]:
        """Score the items for one request, float32 [L]."""
        names, out = [*self.schema.dense, *self.schema.sparse], np.empty(self._count, np.float32)
        for first in range(0, self._count, PAIR_ROWS):
            count = min(PAIR_ROWS, self._count - first)
            rows = request.select(names).take(np.zeros(count, np.int64))
            for of, table in ((self.item_features, self._items), (self.pair_features, pairs)):
                for name in of:
                    assert table is not None, "the index has no features of pairs"
                    rows = rows.set_column(names.index(name), name, table[name].slice(first, count))
            batch = batch_from_arrow(rows, self.schema)
            out[first : first + count] = self.model(batch.dense, batch.sparse).numpy()
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
