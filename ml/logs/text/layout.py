"""How one file's lines map to a source's columns: from its header where it has one, else from the catalog.

Reading lines by a layout is `ml.logs.text.delimited`, `ml.logs.text.jsonlines` and `ml.logs.parquet`.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from ml.catalog.reading import Source
from ml.schema import ARROW_TYPES

BOM = b"\xef\xbb\xbf"


class WrongFile(ValueError):
    """A file is not what the catalog says: the message names file and column, and what to do."""


@dataclass(frozen=True)
class Layout:
    """fields: names in the file's own order, renamed; those that are no columns of the source are read over."""

    source: Source
    fields: tuple[str, ...]

    @property
    def schema(self) -> pa.Schema:
        """Arrow schema of the rows: the source's columns in the catalog's order."""
        return pa.schema([(name, ARROW_TYPES[kind]) for name, kind in self.source.columns.items()])

    @property
    def originals(self) -> dict[str, str]:
        """Name in the catalog -> name in the file, for formats that name each value."""
        return {name: name for name in self.source.columns} | {new: old for old, new in self.source.rename.items()}

    @classmethod
    def declared(cls, source: Source) -> Layout:
        return cls(source, tuple(source.columns))

    @classmethod
    def from_header(cls, source: Source, header: bytes, file: str) -> Layout:
        """Raises `WrongFile` where the header lacks a column of the source, or names one twice."""
        text = header.removeprefix(BOM).rstrip(b"\r\n").decode(source.encoding, errors="replace")
        quoting = csv.QUOTE_MINIMAL if source.quoted else csv.QUOTE_NONE
        found = next(csv.reader([text], delimiter=source.delimiter, quoting=quoting), [])
        return cls(source, names_in(source, found, file, "header"))


def names_in(source: Source, found: Sequence[str], file: str, what: str) -> tuple[str, ...]:
    """The names that a file gives, as the source calls them. Raises `WrongFile`."""
    names = tuple(source.rename.get(name.strip(), name.strip()) for name in found)
    if missing := [column for column in source.columns if column not in names]:
        raise WrongFile(
            f"{file}: {what} lacks column{'s' if len(missing) > 1 else ''} {', '.join(map(repr, missing))}; it holds "
            f"{', '.join(map(repr, found[:40]))}. Mend source.columns or source.rename in the catalog, or remove the file"
        )
    if twice := sorted({name for name in names if names.count(name) > 1} & set(source.columns)):
        raise WrongFile(f"{file}: {what} names {', '.join(map(repr, twice))} more than once")
    return names
