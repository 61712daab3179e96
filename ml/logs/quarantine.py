"""Lines that could not be read as rows: the vocabulary of reasons, and the table that holds such lines.

What is wrong with a line is found out in `ml.logs.text.parse` and `ml.logs.validate_rows`; here it is only named and kept.

| reason                    | of a line                                                                               |
|---------------------------|-----------------------------------------------------------------------------------------|
| blank line                | nothing between two line ends                                                           |
| not UTF-8                 | bytes that are no UTF-8 text                                                            |
| stray carriage return     | a CR that no line feed follows                                                          |
| line too long             | longer than `ml.logs.streams.BLOCK` bytes                                               |
| wrong number of fields    | more or fewer than the log has columns                                                  |
| unbalanced quote          | a quoted field that never ends on its line                                              |
| bad number in column X    | no number, an integer beyond 64 bits, or an infinite or not-a-number float              |
| bad boolean in column X   | none of 1, 0, true, false                                                               |
| bad text in column X      | a JSON value that is no string                                                          |
| bad JSON                  | no JSON object, more than one, a key given twice, half a surrogate pair                 |
| unreadable                | refused for another cause                                                               |
| time missing              | null event time                                                                         |
| time unparsable           | an event time that is no date and time                                                  |
| time out of range         | before the first or after the last partition day, or too far from its dated file's day  |
| label missing             | null label                                                                              |
| unknown label             | neither 0 nor 1, where the label is a column without a threshold                        |
| damaged file: WHY         | all that follows the last good byte of a truncated or corrupt archive, as one line      |
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pyarrow as pa

BLANK, NOT_UTF8, STRAY_CR, TOO_LONG = "blank line", "not UTF-8", "stray carriage return", "line too long"
FIELDS, UNBALANCED, BAD_JSON, UNREADABLE = "wrong number of fields", "unbalanced quote", "bad JSON", "unreadable"
TIME_MISSING, TIME_UNPARSABLE, TIME_RANGE = "time missing", "time unparsable", "time out of range"
LABEL_MISSING, LABEL_UNKNOWN = "label missing", "unknown label"

TEXT_BYTES = 1000

SCHEMA = pa.schema(
    [
        pa.field("file", pa.string()),
        pa.field("line", pa.int64()),
        pa.field("reason", pa.string()),
        pa.field("text", pa.binary()),
    ]
)


def bad_value(kind: str, column: str) -> str:
    """The reason for a value of declared type `kind` (`int`, `float`, `bool`, `string`) that is none."""
    word = {"int": "number", "float": "number", "bool": "boolean", "string": "text"}[kind]
    return f"bad {word} in column {column}"


def damaged(why: object) -> str:
    return f"damaged file: {why}"


@dataclass(frozen=True)
class Quarantine:
    """Q lines, in file and line order. table: columns file, line (from 1, header included), reason, text (its first bytes)."""

    table: pa.Table

    def __len__(self) -> int:
        return self.table.num_rows

    @property
    def reasons(self) -> dict[str, int]:
        """How many lines for each reason."""
        return dict(sorted(Counter(self.table.column("reason").to_pylist()).items()))

    @classmethod
    def of(cls, file: str, lines: Sequence[int], reasons: Sequence[str], texts: Sequence[bytes]) -> Quarantine:
        columns = [[file] * len(lines), list(lines), list(reasons), [text[:TEXT_BYTES] for text in texts]]
        return cls(pa.table([pa.array(c, f.type) for c, f in zip(columns, SCHEMA, strict=True)], schema=SCHEMA))

    @classmethod
    def concat(cls, parts: Iterable[Quarantine]) -> Quarantine:
        return cls(pa.concat_tables([SCHEMA.empty_table(), *(part.table for part in parts)]))
