"""Inverted lists: which items have a value in a column. They answer the filters of a request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray


class UnknownColumn(KeyError):
    """A filter names a column that items do not have."""

    def __str__(self) -> str:
        return str(self.args[0])


class Postings:
    """The places of the items with each value of each column, ascending.

    Args:
        items: L items, in the order of the index. Columns of lists are left out.

    Example:
        >>> postings = Postings(pa.table({"section": ["news", "sport", "news"], "year": [1, 1, 2]}))
        >>> postings.places({"section": ["news"], "year": [2, 3]}).tolist()
        [2]
    """

    def __init__(self, items: pa.Table) -> None:
        self._lists: dict[str, dict[Any, NDArray[np.int64]]] = {}
        for name in items.column_names:
            column = items[name].combine_chunks()
            if pa.types.is_nested(column.type):
                continue
            coded = column if isinstance(column, pa.DictionaryArray) else column.dictionary_encode()
            codes = pc.fill_null(coded.indices, len(coded.dictionary)).to_numpy()
            order = np.argsort(codes, kind="stable")
            ends = np.cumsum(np.bincount(codes, minlength=len(coded.dictionary) + 1))
            values = [*coded.dictionary.to_pylist(), None]
            self._lists[name] = {
                value: order[end - count : end]
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
            filters: Values by column, at least one column. None is a missing value.

        Raises:
            UnknownColumn: The items have no such column.
        """
        chosen = []
        for column, values in filters.items():
            if column not in self._lists:
                raise UnknownColumn(f"filters.{column}: items have no such column; the columns are {sorted(self._lists)}")
            lists = [self._lists[column][value] for value in dict.fromkeys(values) if value in self._lists[column]]
            chosen.append(np.sort(np.concatenate(lists)) if len(lists) > 1 else lists[0] if lists else np.zeros(0, np.int64))
        return reduce(lambda a, b: np.intersect1d(a, b, assume_unique=True), chosen)
