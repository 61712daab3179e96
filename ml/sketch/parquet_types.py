"""Finds the types of the columns of Parquet files that a catalog entry can declare, those within structs too."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from upath import UPath

from ml.logs.typed_columns import is_list
from ml.sketch.layout import FoundSource
from ml.sketch.object_columns import names_within

_KINDS = (
    (pa.types.is_boolean, "bool"),
    (pa.types.is_integer, "int"),
    (pa.types.is_timestamp, "int"),
    (pa.types.is_floating, "float"),
    (lambda held: pa.types.is_decimal(held) and held.scale <= 0, "int"),
    (pa.types.is_decimal, "float"),
    *((is_text, "string") for is_text in (pa.types.is_string, pa.types.is_large_string, pa.types.is_dictionary)),
    (pa.types.is_date, "string"),
    (pa.types.is_time, "string"),
)


@dataclass(frozen=True)
class ParquetTypes:
    """What the columns of Parquet files can be declared as.

    Attributes:
        kinds: Name -> type of each column that can be declared.
        paths: Name -> path of those within structs.
        unsigned: Those of unsigned 64-bit integers.
        struct_lists: Name -> keys that lead to each list of structs.
    """

    kinds: dict[str, str]
    paths: dict[str, str]
    unsigned: tuple[str, ...]
    struct_lists: dict[str, tuple[str, ...]]


def parquet_types(found: FoundSource, folder: Path) -> ParquetTypes:
    """Read the types from the first file.

    Args:
        found: How the files are read.
        folder: The folder of the logs.
    """
    with UPath(found.files(folder)[0].url).open("rb") as raw:
        schema = pq.read_schema(raw)
    held = dict(zip(schema.names, schema.types, strict=True))
    paths: dict[str, tuple[str, ...]] = {}
    for name, of in zip(schema.names, schema.types, strict=True):
        leaves = dict(_fields((name,), of)) if pa.types.is_struct(of) else {}
        if columns := names_within(list(leaves), {*schema.names, *paths}):
            paths |= columns
            held |= {column: leaves[path] for column, path in columns.items()}
    kinds = {name: kind for name, of in held.items() if (kind := _kind_of(of)) is not None}
    dotted = {name: ".".join(path) for name, path in paths.items() if name in kinds}
    unsigned = tuple(name for name in kinds if _element_of(held[name]) == pa.uint64())
    lists = {name: paths.get(name, (name,)) for name, of in held.items() if _holds_structs(of)}
    return ParquetTypes(kinds, dotted, unsigned, lists)


def _fields(path: tuple[str, ...], held: pa.DataType) -> Iterator[tuple[tuple[str, ...], pa.DataType]]:
    """The path and type of each value within a type that the catalog can declare."""
    if pa.types.is_struct(held):
        for one in held:
            yield from _fields((*path, one.name), one.type)
    elif _kind_of(held) is not None or _holds_structs(held):
        yield path, held


def _holds_structs(held: pa.DataType) -> bool:
    return is_list(held) and pa.types.is_struct(held.value_type)


def _element_of(held: pa.DataType) -> pa.DataType:
    return held.value_type if is_list(held) else held


def _kind_of(held: pa.DataType) -> str | None:
    if is_list(held):
        element = _kind_of(held.value_type)
        return f"list<{element}>" if element and not element.startswith("list") else None
    return next((kind for is_type, kind in _KINDS if is_type(held)), None)
