"""Makes texts of JSON numbers, for columns whose declared type is text.

An integer keeps its digits, however many there are. A number with a point or an exponent is a floating-point number, and
becomes the text that it becomes in Parquet and in rows that are sent to a model: `1` for 1.0, `1000` for 1e3, `0.5` for 5e-1.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable

import pyarrow as pa

from ml.logs.typed_columns import type_column

_NUMBER = rb"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?"
_ELEMENT = re.compile(_NUMBER)
_PLAIN_INT = re.compile(rb"0|-?[1-9][0-9]*")


def numbers_as_texts(data: bytes, keys: Iterable[str]) -> bytes:
    """Puts the numbers that are the value of some keys in quotes, and those of lists of numbers.

    Args:
        data: Lines, each of which is one JSON object.
        keys: Names of keys, at any depth, spelled with or without escapes of characters that are not ASCII.

    Returns:
        The lines. A floating-point number that is an integer from 2^53 on remains, because it may be another one.

    Example:
        >>> numbers_as_texts(b'{"sku": 17, "tags": [1, null], "price": 2}', ["sku", "tags"])
        b'{"sku": "17", "tags": ["1", null], "price": 2}'
    """
    for key in keys:
        spelled = {json.dumps(key, ensure_ascii=ascii).encode() for ascii in (True, False)}
        # A quote within a text follows a backslash, so this is a key wherever a colon follows it.
        names = b"|".join(rb"(?<!\\)" + re.escape(name) for name in sorted(spelled))
        start = rb"((?:" + names + rb")[ \t]*:[ \t]*)"
        data = re.sub(start + rb"(0|-?[1-9][0-9]*)(?=[ \t]*[,}])", rb'\1"\2"', data)
        data = re.sub(start + rb"(" + _NUMBER + rb")(?=[ \t]*[,}])", lambda found: found[1] + _quoted(found[2]), data)
        data = re.sub(start + rb"(\[[-+0-9.eEnul, \t]*\])", lambda found: found[1] + _quoted_list(found[2]), data)
    return data


def _quoted_list(text: bytes) -> bytes:
    return _ELEMENT.sub(lambda found: _quoted(found[0]), text)


def _quoted(number: bytes) -> bytes:
    if _PLAIN_INT.fullmatch(number):
        return b'"' + number + b'"'
    text = type_column(pa.chunked_array([[float(number)]]), "string").values[0].as_py()
    return number if text is None else b'"' + text.encode() + b'"'
