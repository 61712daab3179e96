"""Quarantined lines: the vocabulary of reasons, and the table that holds such lines.

`ml.logs.text.parse` and `ml.logs.validate_rows` decide that a line is bad; this module names the reasons.

| reason                    | cause                                                                                   |
|---------------------------|-----------------------------------------------------------------------------------------|
| blank line                | no characters between two line ends                                                     |
| not UTF-8                 | bytes that are not UTF-8 text                                                           |
| stray carriage return     | a CR that no line feed follows                                                          |
| line too long             | a line longer than `ml.logs.streams.BLOCK` bytes                                        |
| wrong number of fields    | more or fewer fields than the log has columns                                           |
| unbalanced quote          | a quoted field without an end on its line                                               |
| control character         | NUL, SOH or STX in a file of `source.multiline`                                         |
| bad number in column X    | not a number, an integer beyond 64 bits, or an infinite or not-a-number float           |
| bad boolean in column X   | a value other than 1, 0, true and false                                                 |
| bad text in column X      | a JSON value that is not a string, or a float that is infinite or not a number          |
| bad list in column X      | a value that is not a list, or has an element of another type                           |
| bad element in X          | an element of the exploded field X without all its parts                                |
| lists of different lengths | exploded fields whose lists differ in length                                           |
| inexact integer in column X | an integer in a column of floats, from 2^53 on (2^24 for float32): not told from others |
| bad JSON                  | not one JSON object, a repeated key, or half a surrogate pair                           |
| unreadable                | refused by the reader for any other reason                                              |
| time missing              | a null event time                                                                       |
| time unparsable           | an event time that is not a date and time                                               |
| time far from file's day  | further from the day of its dated file than `source.spill_days`                         |
| label missing             | a null label                                                                            |
| unknown label             | a label other than 0 and 1 (in text, words for them), or in neither `is` nor `is_not`   |
| bad weight                | a missing, negative or infinite sample weight                                           |
| damaged file: WHY         | the lost rest of a truncated or corrupt file, counted as one line                       |
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pyarrow as pa

BLANK, NOT_UTF8, STRAY_CR, TOO_LONG = "blank line", "not UTF-8", "stray carriage return", "line too long"
FIELDS, UNBALANCED, BAD_JSON, UNREADABLE = "wrong number of fields", "unbalanced quote", "bad JSON", "unreadable"
TIME_MISSING, TIME_UNPARSABLE, TIME_FAR = "time missing", "time unparsable", "time far from file's day"
LENGTHS, CONTROL = "lists of different lengths", "control character"
LABEL_MISSING, LABEL_UNKNOWN, WEIGHT = "label missing", "unknown label", "bad weight"

TEXT_BYTES = 1000  # of a quarantined line, this many bytes are kept

SCHEMA = pa.schema(
    [
        pa.field("file", pa.string()),
        pa.field("line", pa.int64()),
        pa.field("reason", pa.string()),
        pa.field("text", pa.binary()),
    ]
)


def bad_value(kind: str, column: str) -> str:
    """The reason for a value of `column` that is not of the declared type `kind`, such as `int` or `list<int>`."""
    word = {"int": "number", "float": "number", "bool": "boolean", "string": "text"}.get(kind, "list")
    return f"bad {word} in column {column}"


def bad_element(field: str) -> str:
    """The reason for a line with an element of the exploded field `field` that lacks a part."""
    return f"bad element in {field}"


def inexact_integer(column: str) -> str:
    """The reason for an integer that came as a float too large to tell it from the next."""
    return f"inexact integer in column {column}"


def damaged_file(why: object) -> str:
    """The reason for the lost rest of a file; with an empty `why`, the prefix of all such reasons."""
    return f"damaged file: {why}"


@dataclass(frozen=True)
class Quarantine:
    """Q quarantined lines in file and line order.

    Attributes:
        table: Columns `file`, `line` (from 1, a header included), `reason` and `text` (the line's first bytes), [Q].

    Example:
        >>> Quarantine.of("a.csv", [7], ["blank line"], [b""]).reasons
        {'blank line': 1}
    """

    table: pa.Table

    def __len__(self) -> int:
        return self.table.num_rows

    @property
    def reasons(self) -> dict[str, int]:
        """Number of lines by reason."""
        return dict(sorted(Counter(self.table.column("reason").to_pylist()).items()))

    @classmethod
    def of(cls, file: str, lines: Sequence[int], reasons: Sequence[str], texts: Sequence[bytes]) -> Quarantine:
        """Builds the quarantine of one file from [Q] line numbers, reasons and texts."""
        columns = [[file] * len(lines), list(lines), list(reasons), [text[:TEXT_BYTES] for text in texts]]
        return cls(pa.table(columns, schema=SCHEMA))

    @classmethod
    def concat(cls, parts: Iterable[Quarantine]) -> Quarantine:
        """Joins quarantines in the order given."""
        return cls(pa.concat_tables([SCHEMA.empty_table(), *(part.table for part in parts)]))


def excerpt(value: object, length: int = 60) -> str:
    """A value as messages show it, truncated."""
    text = repr(value.decode("utf-8", "replace") if isinstance(value, bytes) else value)
    return text if len(text) <= length else f"{text[:length]}..."
