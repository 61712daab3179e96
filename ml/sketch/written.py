"""Finds how the values of columns are written: as numbers or texts, with blanks, and ints as `9.0` or beyond 2^63."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from ml.sketch.names import names_id

_INT64, _UINT64 = 2**63, 2**64
PADDED = 0.01
"""Share of the values of a column that have blanks around them, from which blanks are removed."""
LONG = 60
"""Characters on average from which texts are free text."""
_INT = re.compile(r"-?\d{1,20}")
_FLOAT = re.compile(r"-?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")
_DECIMAL_INT = re.compile(r"-?\d{1,15}(\.0*)?")


def kind_of(texts: Iterable[str], tokens: Collection[str]) -> str:
    """Find the type of texts: `int`, `float` or `string`.

    Args:
        texts: The texts.
        tokens: Texts that mean a missing value.
    """
    there = {text for text in texts if text not in tokens}
    if not there:
        return "string"
    if all(map(_INT.fullmatch, there)):
        # Leading zeros are part of a text, such as a postal code.
        is_text = any(re.fullmatch(r"-?0\d+", text) for text in there)
        return "string" if is_text or not fit_in_64_bits(map(int, there)) else "int"
    return "float" if all(map(_FLOAT.fullmatch, there)) else "string"


def fit_in_64_bits(values: Iterable[int]) -> bool:
    """Whether ints are all signed, or all unsigned, 64-bit integers."""
    there = list(values)
    low, high = min(there, default=0), max(there, default=0)
    return (low >= -_INT64 and high < _INT64) or (low >= 0 and high < _UINT64)


def are_unsigned(values: Iterable[Any]) -> bool:
    """Whether ints among values, and in lists among them, are beyond signed 64-bit integers."""
    return any(
        are_unsigned(value) if isinstance(value, list | tuple) else value >= _INT64 for value in values if value is not None
    )


def has_negative(values: Iterable[Any]) -> bool:
    """Whether ints among values, and in lists among them, are negative."""
    return any(has_negative(value) if isinstance(value, list | tuple) else value < 0 for value in values if value is not None)


def are_decimal_ints(name: str, values: Sequence[Any], rows: int) -> bool:
    """Whether numbers with a point are ints: all are whole, and the column names an id, or misses values as pandas' ints do.

    Args:
        name: Name of the column.
        values: The values that are there, as texts or as floats.
        rows: Number of rows.
    """
    texts = {value if isinstance(value, str) else str(value) for value in values}
    is_whole = bool(texts) and all(map(_DECIMAL_INT.fullmatch, texts)) and any("." in text for text in texts)
    return is_whole and (names_id(name) or (len(values) < rows and len(texts) > 2))


def padded(columns: Mapping[str, Sequence[str]], tokens: Collection[str]) -> dict[str, float]:
    """Find the columns of texts whose values must be read without the blanks around them.

    Args:
        columns: Name -> texts.
        tokens: Texts without blanks that mean a missing value.

    Returns:
        Name -> share of the values with blanks. Numbers are read in spite of blanks, and those of free text do not matter.
    """
    found: dict[str, float] = {}
    for name, texts in columns.items():
        there = [(text, text.strip()) for text in texts if text]
        values = [value for _, value in there if value and value not in tokens]
        is_text = kind_of(values, ()) == "string" and sum(map(len, values)) <= LONG * len(values)
        share = sum(text != value and (is_text or (value == "" or value in tokens)) for text, value in there) / max(
            len(there), 1
        )
        found |= {name: share} if share >= PADDED else {}
    return found
