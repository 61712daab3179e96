"""Reads binary labels from the values of a column, as a catalog entry says.

Validation of raw rows, features, statistics and serving all use this module, so that a value has one meaning everywhere.
"""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute creates its functions at import, so type checkers do not see them)

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ml.catalog.labels import LabelRule
from ml.catalog.log_spec import LabelColumn

POSITIVE, NEGATIVE, MISSING, UNKNOWN = 1, 0, -1, -2
WORDS = {POSITIVE: ("1", "true", "t", "yes", "y"), NEGATIVE: ("0", "false", "f", "no", "n")}
"""Words for labels in a column of text, in lower case."""


def label_codes(values: pa.Array | pa.ChunkedArray, rule: LabelRule) -> NDArray[np.int8]:
    """Reads a label.

    Args:
        values: pa.Array | pa.ChunkedArray of the label's column in its declared type, or a dictionary of them, [N].
        rule: How the label is read.

    Returns:
        POSITIVE, NEGATIVE, MISSING or UNKNOWN, int8 [N].

    Example:
        >>> label_codes(pa.array(["buy", "view", None]), LabelRule("label", "label", "action", positive=("buy",))).tolist()
        [1, 0, -1]
    """
    if isinstance(values, pa.ChunkedArray):
        values = values.combine_chunks()
        values = pa.concat_arrays(values.chunks) if isinstance(values, pa.ChunkedArray) else values
    if isinstance(values, pa.DictionaryArray):
        codes = np.append(label_codes(values.dictionary, rule), MISSING).astype(np.int8)
        return codes[values.indices.fill_null(len(values.dictionary)).to_numpy(zero_copy_only=False)]
    if rule.at_least is not None:
        numbers = values.cast(pa.float64(), safe=False)
        positive, negative = pc.greater_equal(numbers, rule.at_least), pc.less(numbers, rule.at_least)
    elif rule.positive is not None:
        positive = pc.is_in(values, pa.array(rule.positive, values.type))
        negative = pc.invert(positive) if rule.negative is None else pc.is_in(values, pa.array(rule.negative, values.type))
    else:
        positive, negative = (_is_binary(values, code) for code in (POSITIVE, NEGATIVE))
    codes = np.full(len(values), UNKNOWN, np.int8)
    codes[_mask(negative)], codes[_mask(positive)] = NEGATIVE, POSITIVE
    codes[_mask(pc.is_null(values, nan_is_null=True))] = MISSING
    return codes


def unknown_labels(values: pa.Array | pa.ChunkedArray, column: LabelColumn) -> NDArray[np.bool_]:
    """Marks the values [N] of a log's label column that are no label; missing ones are not marked. Bool [N]."""
    if column.known is not None:
        known = pc.is_in(values, pa.array(column.known, values.type))
    elif column.binary:
        known = pc.or_(_is_binary(values, POSITIVE), _is_binary(values, NEGATIVE))
    else:
        return np.zeros(len(values), bool)
    return _mask(pc.and_(pc.is_valid(values), pc.invert(pc.fill_null(known, False))))


def _is_binary(values: pa.Array | pa.ChunkedArray, code: int) -> pa.Array | pa.ChunkedArray:
    """Whether values are 0 or 1, whichever `code` is, or in text a word for it."""
    if pa.types.is_string(values.type):
        return pc.is_in(pc.utf8_lower(pc.utf8_trim_whitespace(values)), pa.array(WORDS[code]))
    if pa.types.is_boolean(values.type):
        return values if code else pc.invert(values)
    return pc.equal(values, pa.scalar(code, values.type))


def _mask(values: pa.Array | pa.ChunkedArray) -> NDArray[np.bool_]:
    return pc.fill_null(values, False).to_numpy(zero_copy_only=False)
