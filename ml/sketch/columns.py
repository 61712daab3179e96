"""Finds the type of each column of a log from a sample of its rows, and statistics from which its role is guessed."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from upath import UPath

from ml.preflight.sample import Sample, read_sample
from ml.preflight.values import NULLS
from ml.sketch.layout import FoundSource

_INT = re.compile(r"-?\d{1,18}")
_FLOAT = re.compile(r"-?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")
PARTS = "|,; "
LEAVES = 50
"""Most values of an object that become columns. An object with more of them is a map, such as from ids to counts."""
_KINDS = (
    (pa.types.is_boolean, "bool"),
    (pa.types.is_integer, "int"),
    (pa.types.is_timestamp, "int"),
    (pa.types.is_floating, "float"),
    (pa.types.is_decimal, "float"),
    *((is_text, "string") for is_text in (pa.types.is_string, pa.types.is_large_string, pa.types.is_dictionary)),
    (pa.types.is_date, "string"),
)


@dataclass(frozen=True)
class Column:
    """A column of the sample.

    Attributes:
        name: Its name.
        kind: `int`, `float`, `string`, `bool`, or a list of these, such as `list<string>`.
        rows: Number N of rows of the sample.
        values: The values that are there, as they are read.
        nested: Whether values are lists of objects, or objects with many keys, which are no columns.
    """

    name: str
    kind: str
    rows: int
    values: tuple[Any, ...]
    nested: bool = False

    @property
    def counts(self) -> Counter[Any]:
        """Value -> how often it occurs."""
        return Counter(self.values)

    @property
    def missing(self) -> float:
        """Share of rows without a value."""
        return 1 - len(self.values) / max(self.rows, 1)

    @property
    def distinct(self) -> int:
        return len(set(self.values))

    @property
    def numeric(self) -> bool:
        return self.kind in ("int", "float")

    @property
    def unique(self) -> bool:
        """Whether almost all values are distinct, as in a key of the row."""
        return self.rows >= 20 and self.distinct >= 0.99 * len(self.values) > 0

    def separator(self) -> str | None:
        """The separator of a column of several parts, whose parts occur more often than whole values."""
        if self.kind != "string" or self.distinct < 2:
            return None
        for mark in PARTS:
            texts = [value for value in set(self.values) if value]
            parts = [part for text in texts for part in text.split(mark)]
            several = sum(mark in text for text in texts)
            if several >= 0.3 * len(texts) and len(set(parts)) < 0.6 * len(parts) and len(parts) < 20 * len(texts):
                return mark
        return None


@dataclass(frozen=True)
class SampledLog:
    """A sample of a log.

    Attributes:
        columns: The columns in file order.
        null_tokens: Texts that mean a missing value, besides the empty text.
        complete: Whether the sample has all rows.
        paths: Name -> path of each column that is a value within objects, for `source.paths`.
    """

    columns: tuple[Column, ...]
    null_tokens: tuple[str, ...]
    complete: bool
    paths: Mapping[str, str] = field(default_factory=dict)

    @property
    def types(self) -> dict[str, str]:
        """Name -> type of each column that can be read."""
        return {column.name: column.kind for column in self.columns if not column.nested}

    def __getitem__(self, name: str) -> Column:
        """The column of a name."""
        return next(column for column in self.columns if column.name == name)


def sample_columns(found: FoundSource, folder: Path) -> SampledLog:
    """Read a sample of up to 15,000 rows and find the types of the columns.

    Args:
        found: How the files are read.
        folder: The folder of the logs.

    Raises:
        ValueError: The sample has no rows.
    """
    kinds = dict.fromkeys(found.names, "string")
    paths: dict[str, str] = {}
    if found.keys["format"] == "parquet":
        kinds, paths = _parquet_kinds(found, folder)
        found = replace(found, paths=paths)
    sample = read_sample(found.source(kinds), found.files(folder))
    if not sample.num_lines:
        raise ValueError(f"{found.group.pattern}: no rows could be read")
    if found.keys["format"] == "jsonl":
        return _of_objects(found, sample)
    if found.keys["format"] == "parquet":
        table = sample.table
        columns = [_of_values(name, table[name].to_pylist()) for name in table.column_names]
        read = {*kinds, *(path.partition(".")[0] for path in paths.values())}
        gone = [Column(name, "string", len(table), (), nested=True) for name in found.names if name not in read]
        return SampledLog((*columns, *gone), (), sample.complete, paths)
    texts = sample.text_columns()
    tokens = tuple(t for t in NULLS if any(t in values and _kind_of(values, (t, "")) != "string" for values in texts.values()))
    columns = [_of_texts(name, texts[name], ("", *tokens)) for name in found.names]
    return SampledLog(tuple(columns), tokens, sample.complete)


def _parquet_kinds(found: FoundSource, folder: Path) -> tuple[dict[str, str], dict[str, str]]:
    """Name -> type of each column that the catalog can declare, and name -> path of those within structs."""
    with UPath(found.files(folder)[0].url).open("rb") as raw:
        schema = pq.read_schema(raw)
    kinds = {name: _kind_of_type(held) for name, held in zip(schema.names, schema.types, strict=True)}
    paths: dict[str, str] = {}
    for name, held in zip(schema.names, schema.types, strict=True):
        leaves = dict(_fields((name,), held)) if pa.types.is_struct(held) else {}
        if columns := _columns_of(list(leaves), {*schema.names, *paths}):
            paths |= {column: ".".join(path) for column, path in columns.items()}
            kinds |= {column: leaves[path] for column, path in columns.items()}
    return {name: kind for name, kind in kinds.items() if kind}, paths


def _fields(path: tuple[str, ...], held: pa.DataType) -> Iterator[tuple[tuple[str, ...], str]]:
    """The path and type of each value within a type that the catalog can declare."""
    if pa.types.is_struct(held):
        for one in held:
            yield from _fields((*path, one.name), one.type)
    elif (kind := _kind_of_type(held)) is not None:
        yield path, kind


def _columns_of(paths: Sequence[tuple[str, ...]], taken: Container[str]) -> dict[str, tuple[str, ...]]:
    """Name -> path of the values within an object; none if they cannot be columns."""
    columns = {"_".join(path): path for path in paths}
    is_read = len(columns) == len(paths) <= LEAVES and all(part and "." not in part for path in paths for part in path)
    return columns if is_read and not any(name in taken for name in columns) else {}


def _kind_of_type(held: pa.DataType) -> str | None:
    if pa.types.is_list(held) or pa.types.is_large_list(held):
        element = _kind_of_type(held.value_type)
        return f"list<{element}>" if element and not element.startswith("list") else None
    return next((kind for is_type, kind in _KINDS if is_type(held)), None)


def _of_objects(found: FoundSource, sample: Sample) -> SampledLog:
    objects, columns, paths = sample.objects(), list[Column](), dict[str, str]()
    for name in found.names:
        values = [value.get(name) for value in objects]
        there = [value for value in values if value is not None]
        leaves: dict[tuple[str, ...], None] = {}
        if there and all(isinstance(value, dict) for value in there):
            leaves = dict.fromkeys(path for value in there for path in _leaves((name,), value))
        within = _columns_of(list(leaves), {*found.names, *paths})
        own = [_of_values(column, [_value_at(value, path) for value in objects]) for column, path in within.items()]
        columns += own or [_of_values(name, values)]
        paths |= {column.name: ".".join(within[column.name]) for column in own if not column.nested}
    return SampledLog(tuple(columns), (), sample.complete, paths)


def _leaves(path: tuple[str, ...], value: Any) -> Iterator[tuple[str, ...]]:
    """The paths of all values within an object that are not objects themselves."""
    if isinstance(value, dict):
        for key, held in value.items():
            yield from _leaves((*path, key), held)
    elif value is not None:
        yield path


def _value_at(value: Any, path: tuple[str, ...]) -> Any:
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _of_values(name: str, values: Sequence[Any]) -> Column:
    """A column of values that have types, as in JSON and Parquet."""
    there = [value for value in values if value is not None]
    if there and all(isinstance(value, list) for value in there):
        elements = [element for value in there for element in value if element is not None]
        if not any(isinstance(element, dict | list) for element in elements):
            kind = f"list<{_of_values(name, elements).kind}>"
            return Column(name, kind, len(values), tuple(tuple(value) for value in there))
    if any(isinstance(value, dict | list) for value in there):
        return Column(name, "string", len(values), tuple(json.dumps(value) for value in there), nested=True)
    kinds = {type(value) for value in there}
    kind = "bool" if kinds == {bool} else "int" if kinds == {int} else "float" if kinds <= {int, float} and kinds else "string"
    return Column(name, kind, len(values), tuple(there if kind != "string" else map(str, there)))


def _kind_of(texts: Sequence[str], tokens: Sequence[str]) -> str:
    there = {text for text in texts if text not in tokens}
    if there and all(map(_INT.fullmatch, there)):
        # Leading zeros are part of a text, such as a postal code.
        return "string" if any(re.fullmatch(r"-?0\d+", text) for text in there) else "int"
    return "float" if there and all(map(_FLOAT.fullmatch, there)) else "string"


def _of_texts(name: str, texts: Sequence[str], tokens: Sequence[str]) -> Column:
    kind = _kind_of(texts, tokens)
    there = [text for text in texts if text not in tokens]
    parse = {"int": int, "float": float}.get(kind, str)
    return Column(name, kind, len(texts), tuple(map(parse, there)))
