"""Inverted lists: which items have a value in a column. They answer the filters of a request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ml.features.sparse import split_texts


class UnknownColumn(KeyError):
    """A filter names a column that items do not have."""

    def __str__(self) -> str:
        return str(self.args[0])


class Postings:
    """The places of the items with each value of each column, ascending.

    Args:
        items: L items, in the order of the index.
        separators: Separators of the columns of text that hold several values, as `sparse.split` declares them.

    Example:
        >>> items = pa.table({"genres": ["Comedy Drama", "War", "Drama"], "year": [1, 1, 2]})
        >>> postings = Postings(items, {"genres": " "})
        >>> postings.places({"genres": ["Drama"]}).tolist(), postings.places({"genres": ["Drama"], "year": [2, 3]}).tolist()
        ([0, 2], [2])
    """

    def __init__(self, items: pa.Table, separators: Mapping[str, str] | None = None) -> None:
        self._lists: dict[str, dict[Any, NDArray[np.int64]]] = {}
        for name in items.column_names:
            column = items[name].combine_chunks()
            at = np.arange(len(column))
            if separators and name in separators:
                column = split_texts(column.cast(pa.string()), separators[name])
            if pa.types.is_list(column.type):
                at, column = _elements(column)
            coded = column if isinstance(column, pa.DictionaryArray) else column.dictionary_encode()
            codes = pc.fill_null(coded.indices, len(coded.dictionary)).to_numpy()
            order = np.argsort(codes, kind="stable")
            ends = np.cumsum(np.bincount(codes, minlength=len(coded.dictionary) + 1))
            values = [*coded.dictionary.to_pylist(), None]
            self._lists[name] = {
                value: at[order[end - count : end]]
                for value, end, count in zip(values, ends, np.diff(ends, prepend=0), strict=True)
                if count
            }

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns that can be filtered by."""
        return tuple(self._lists)

    def places(self, filters: Mapping[str, Sequence[Any]]) -> NDArray[np.int64]:
        """Return the places of the items that have one of the values in each of the columns, int64, ascending.

        Args:
            filters: Values by column, at least one column. None is a missing value, or a list without a value.

        Raises:
            UnknownColumn: The items have no such column.
        """
        chosen = []
        for column, values in filters.items():
            if column not in self._lists:
                raise UnknownColumn(f"filters.{column}: items have no such column; the columns are {sorted(self._lists)}")
            lists = [self._lists[column][value] for value in dict.fromkeys(values) if value in self._lists[column]]
            chosen.append(np.unique(np.concatenate(lists)) if len(lists) > 1 else lists[0] if lists else np.zeros(0, np.int64))
        return reduce(lambda a, b: np.intersect1d(a, b, assume_unique=True), chosen)


def _elements(lists: pa.ListArray) -> tuple[NDArray[np.int64], pa.Array]:
    """Return the values of L lists, each value of a list once, and their places, both [N]. A list without a value has null."""
    at, values = (pc.call_function(name, [lists]) for name in ("list_parent_indices", "list_flatten"))
    held = pa.table({"at": at, "value": values})
    known = held.filter(held["value"].is_valid())
    if pa.types.is_string(lists.type.value_type):
        known = known.filter(pc.call_function("not_equal", [known["value"], ""]))  # as features read them
    known = known.group_by(["at", "value"], use_threads=False).aggregate([])
    without = np.setdiff1d(np.arange(len(lists)), known["at"].to_numpy())
    places = np.concatenate([known["at"].to_numpy(), without])
    order = np.argsort(places, kind="stable")
    values = pa.chunked_array([*known["value"].chunks, pa.nulls(len(without), lists.type.value_type)], lists.type.value_type)
    return places[order], values.combine_chunks().take(pa.array(order))
