"""How the fields of one file map to a source's columns: by the file's header, or by the catalog if it has none.

`ml.logs.text.delimited`, `ml.logs.text.jsonlines` and `ml.logs.parquet` read rows with it.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from ml.catalog.reading import Source
from ml.catalog.value_paths import KeyPath, key_paths
from ml.schema import ARROW_TYPES

BOM = b"\xef\xbb\xbf"


class WrongFile(ValueError):
    """A file does not match the catalog entry. The message names the file, the column and what to change."""


@dataclass(frozen=True)
class Layout:
    """The fields of one file.

    Attributes:
        source: The source that the file belongs to.
        fields: Names in the file's own order, renamed as the catalog says. Names that are not columns are ignored.
    """

    source: Source
    fields: tuple[str, ...]

    @property
    def schema(self) -> pa.Schema:
        """Arrow schema of the rows: the source's columns in the catalog's order."""
        return pa.schema([(name, ARROW_TYPES[kind]) for name, kind in self.source.columns.items()])

    @property
    def key_paths(self) -> dict[str, KeyPath]:
        """Column -> the path of its value, for formats that name each value: its name in the file, or several keys."""
        return key_paths(self.source, self.source.columns)

    @classmethod
    def declared(cls, source: Source) -> Layout:
        """The layout of a file without a header: the catalog's columns in order."""
        return cls(source, tuple(source.columns))

    @classmethod
    def from_header(cls, source: Source, header: bytes, file: str) -> Layout:
        """The layout that a header line gives.

        Raises:
            WrongFile: The header lacks a column of the source, or names one twice.
        """
        text = header.removeprefix(BOM).rstrip(b"\r\n").decode(source.encoding, errors="replace")
        quoting = csv.QUOTE_MINIMAL if source.quoted else csv.QUOTE_NONE
        try:
            found = next(csv.reader([text], delimiter=source.delimiter, quoting=quoting), [])
        except csv.Error as error:
            raise WrongFile(f"{file}: the header cannot be read ({error}); a line must end with LF or CR LF") from error
        return cls(source, rename_fields(source, found, file, "header"))


def rename_fields(source: Source, found: Sequence[str], file: str, where: str) -> tuple[str, ...]:
    """Renames a file's fields as the catalog says.

    Args:
        source: Source with `columns` and `rename`.
        found: Names in the file.
        file: Name of the file, for errors.
        where: What holds the names (`header` or `schema`), for errors.

    Returns:
        The names in the file's order.

    Raises:
        WrongFile: A column of the source is absent or occurs twice, or a name that the catalog renames is absent.
    """
    stripped = [name.strip() for name in found]
    names = tuple(source.rename.get(name, name) for name in stripped)
    there = f"it has {', '.join(map(repr, found[:40]))}"
    if unmatched := [old for old in source.rename if old not in stripped]:
        raise WrongFile(
            f"{file}: {where} lacks {', '.join(map(repr, unmatched))}, which source.rename renames to "
            f"{', '.join(repr(source.rename[old]) for old in unmatched)}; {there}. Correct source.rename in the catalog"
        )
    if missing := [column for column in source.columns if column not in names]:
        raise WrongFile(
            f"{file}: {where} lacks column{'s' if len(missing) > 1 else ''} {', '.join(map(repr, missing))}; {there}. "
            f"Correct source.columns or source.rename in the catalog, or remove the file"
        )
    if twice := sorted({name for name in names if names.count(name) > 1} & set(source.columns)):
        raise WrongFile(
            f"{file}: {where} has {', '.join(map(repr, twice))} more than once, so the values are ambiguous; correct the file "
            f"or source.rename in the catalog"
        )
    return names
