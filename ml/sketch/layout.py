"""Finds the format of a group of files: JSON lines, Parquet, or delimited text with its separator, header and names."""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from upath import UPath

from ml.catalog.reading import Source
from ml.logs.sources import LogFile, find_files
from ml.logs.streams import DamagedFile, pieces
from ml.logs.text.layout import BOM
from ml.sketch.files import FileGroup

SEPARATORS = "\t,;|"
_BYTES, _LINES = 1 << 18, 200
_NUMBER = re.compile(r"\s*[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?\s*")


class NotALog(ValueError):
    """Files whose content is no log that can be read."""


@dataclass(frozen=True)
class FoundSource:
    """The files of a group, and the keys of `source` that say how they are read.

    Attributes:
        group: The files.
        keys: Keys of `source` besides `files`, `members` and `columns`.
        names: Names of the columns, in file order.
        invented: Whether the files have no names, so that these are made up.
        paths: Name -> path of each column that is a value within objects.
    """

    group: FileGroup
    keys: dict[str, Any]
    names: tuple[str, ...]
    invented: bool = False
    paths: Mapping[str, str] = field(default_factory=dict)

    def source(self, columns: dict[str, str]) -> Source:
        """The source with some columns and their types."""
        return Source.model_validate(self.entry(columns))

    def entry(self, columns: dict[str, str]) -> dict[str, Any]:
        """The keys of `source` in the order in which entries give them."""
        members = {"members": self.group.members} if self.group.members is not None else {}
        read = {*columns, *self.keys.get("explode", ())}
        within = {name: path for name, path in self.paths.items() if name in read}
        return {
            "files": self.group.pattern,
            **members,
            **self._keys_of(columns),
            **({"paths": within} if within else {}),
            "columns": columns,
        }

    def _keys_of(self, columns: Mapping[str, str]) -> dict[str, Any]:
        """The keys that some columns need."""
        ints = [name for name, kind in columns.items() if kind in ("int", "list<int>")]
        keys = {
            **self.keys,
            "unsigned": [name for name in self.keys.get("unsigned", ()) if name in ints],
            "path_columns": [name for name in self.keys.get("path_columns", ()) if name in columns],
        }
        return {key: value for key, value in keys.items() if value and (ints or key != "decimal_ints")}

    def files(self, folder: Path) -> list[LogFile]:
        """The files below a folder."""
        return find_files(self.source(dict.fromkeys(self.names, "string")), UPath(folder))


def find_layout(group: FileGroup, folder: Path) -> FoundSource:
    """Find out how the files of a group are read, from the first of them that is not empty.

    Args:
        group: The files.
        folder: The folder of the logs.

    Raises:
        NotALog: The files are damaged, empty, or neither text of lines nor Parquet.
    """
    if group.parquet:
        file = FoundSource(group, {"format": "parquet"}, ("any",)).files(folder)[0]
        try:
            with UPath(file.url).open("rb") as raw:
                schema = pq.read_schema(raw)
        except pa.ArrowInvalid as error:
            raise NotALog(f"{file.name}: not readable as Parquet: {str(error).splitlines()[0]}") from error
        return FoundSource(group, {"format": "parquet"}, tuple(schema.names))
    data = b""
    for file in FoundSource(group, {"format": "jsonl"}, ("any",)).files(folder):
        data = _start(file)
        if data.count(b"\n") > 1:
            break
    return _of_text(group, data)


def _start(file: LogFile) -> bytes:
    held = bytearray()
    try:
        for piece in pieces(file):
            held += piece
            if len(held) >= _BYTES:
                break
    except DamagedFile as error:
        if not held:
            raise NotALog(f"{file.name}: {error}") from error
    return bytes(held)


def _of_text(group: FileGroup, data: bytes) -> FoundSource:
    if data[:2] in (b"\xff\xfe", b"\xfe\xff") or data.count(b"\0"):
        raise NotALog(f"{group.pattern}: the files are UTF-16 or binary; expected lines of UTF-8 or latin-1, or Parquet")
    try:
        text, encoding = data.removeprefix(BOM).decode("utf-8"), "utf-8"
    except UnicodeDecodeError as error:
        cut = error.start > len(data) - 4
        text, encoding = (data[: error.start].decode("utf-8"), "utf-8") if cut else (data.decode("latin-1"), "latin-1")
    lines = [line.rstrip("\r") for line in text.split("\n")]
    lines = [line for line in lines[: max(len(lines) - 1, 1)] if line.strip()][:_LINES]
    if not lines:
        raise NotALog(f"{group.pattern}: the files are empty")
    extra = {"encoding": encoding} if encoding != "utf-8" else {}
    if (objects := _objects(lines)) is not None:
        names = tuple(dict.fromkeys(name for value in objects for name in value))
        return FoundSource(group, {"format": "jsonl", **extra}, names)
    return _delimited(group, lines, extra)


def _objects(lines: list[str]) -> list[dict[str, Any]] | None:
    """The JSON objects of lines, if nearly all are objects."""
    found: list[dict[str, Any]] = []
    for line in lines:
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            continue
        found += [value] if isinstance(value, dict) else []
    return found if len(found) >= 0.9 * len(lines) else None


def _delimited(group: FileGroup, lines: list[str], extra: dict[str, Any]) -> FoundSource:
    # A quoted field can have line ends.
    quoted = bool(re.search(rf'(^|[{SEPARATORS}])"(?:[^"]|"")*"($|[{SEPARATORS}])', "\n".join(lines), re.MULTILINE))
    best, rows = _best_rows(lines, quoted)
    if quoted and not (best and all(_is_balanced(line, best) for line in lines)):
        plain = _best_rows(lines, quoted=False)
        if plain[0] and (not best or len(plain[1]) == len(lines)):  # the quotes are part of the texts
            quoted, (best, rows) = False, plain
    if not best:
        raise NotALog(f"{group.pattern}: the lines are neither JSON nor separated by one of {list(SEPARATORS)}")
    format = "tsv" if best == "\t" else "csv"
    keys: dict[str, Any] = {"format": format, **extra}
    header = _has_header(rows)
    keys |= {"header": True} if header else {}
    keys |= {"separator": best} if best not in "\t," else {}
    keys |= {"quoted": True} if quoted else {}
    # A table that pandas wrote with its index has a column without a name. A header allows to leave out columns.
    names = (
        tuple(name.strip() for name in rows[0] if name.strip()) if header else tuple(f"c{n + 1}" for n in range(len(rows[0])))
    )
    return FoundSource(group, keys, names, invented=not header)


def _best_rows(lines: list[str], quoted: bool) -> tuple[str, list[list[str]]]:
    """The separator that divides nearly all rows into the same number of fields, the most of them, and the rows."""
    best, rows = "", list[list[str]]()
    for separator in SEPARATORS:
        split = _rows(lines, separator, quoted)
        width, agreeing = Counter(map(len, split)).most_common(1)[0]
        if width > 1 and agreeing >= 0.9 * len(split) and (not rows or width > len(rows[0])):
            best, rows = separator, [row for row in split if len(row) == width]
    return best, rows


def _rows(lines: list[str], separator: str, quoted: bool) -> list[list[str]]:
    if not quoted:
        return [line.split(separator) for line in lines]
    try:
        return list(csv.reader(lines, delimiter=separator))
    except csv.Error:
        return [line.split(separator) for line in lines]


def _is_balanced(line: str, separator: str) -> bool:
    """Whether the quotes of a line begin and end its fields."""
    try:
        return bool(list(csv.reader([line], delimiter=separator, strict=True)))
    except csv.Error:
        return False


def _has_header(rows: list[list[str]]) -> bool:
    """Whether the first row has names: all distinct, none a number, and unlike the values below them."""
    head, body = [name.strip() for name in rows[0]], rows[1:]
    if not all(head[1:]) or len(set(head)) < len(head) or any(map(_NUMBER.fullmatch, head)) or not body:
        return False
    below = list(zip(*body, strict=True))
    if any(name in column for name, column in zip(head, below, strict=True) if name):
        return False
    numeric = any(all(_NUMBER.fullmatch(value) or not value for value in column) for column in below)
    return numeric or all(re.fullmatch(r"[A-Za-z_][\w :.-]{0,60}", name) for name in head if name)
