"""What the fields of files look like: the parts of a line, numbers in text, and the types of Parquet columns."""

from __future__ import annotations

import csv
import re

import pyarrow as pa

from ml.catalog.reading import Source
from ml.logs.text.layout import BOM

SEPARATORS = ",\t;|: "
NUMBER = re.compile(r"^\s*-?\d+(\.\d+)?([eE][+-]?\d+)?\s*$")


def split_fields(source: Source, line: bytes, separator: str) -> list[str]:
    """Returns the fields of a line of a source, without blanks around them, if they were separated by `separator`."""
    text = line.removeprefix(BOM).decode(source.encoding, errors="replace")
    quoting = csv.QUOTE_MINIMAL if source.quoted else csv.QUOTE_NONE
    try:
        fields = next(csv.reader([text], delimiter=separator, quoting=quoting), [])
    except csv.Error:  # a carriage return within the line, or a field of more than 128 KB
        fields = text.split(separator)
    return [field.strip() for field in fields]


def natural_type(held: pa.DataType) -> str | None:
    """Returns the declared type that holds values of an Arrow type; None if it depends on their use."""
    held = held.value_type if pa.types.is_dictionary(held) else held
    if pa.types.is_boolean(held):
        return "bool"
    if pa.types.is_integer(held):
        return "int"
    if pa.types.is_floating(held) or pa.types.is_decimal(held):
        return "float"
    return "string" if pa.types.is_string(held) or pa.types.is_large_string(held) or pa.types.is_binary(held) else None
