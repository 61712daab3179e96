"""Reads a bounded sample of a source: rows from the start, the middle and the end of a few files, and the header of many.

Rows are parsed by the functions that read whole files, so a sample has the rows and the bad lines that a run would have.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from upath import UPath

from ml.catalog.reading import Source, Time
from ml.catalog.row_shape import in_file
from ml.logs.parquet import column_names, flat_schema, read_first_rows
from ml.logs.row_shape import is_shaped, path_values, shape_rows
from ml.logs.sources import LogFile
from ml.logs.streams import DamagedFile, pieces
from ml.logs.text.joined_rows import split_rows
from ml.logs.text.json_keys import NO_OBJECT, value_at
from ml.logs.text.layout import BOM, Layout, WrongFile
from ml.logs.text.parse import parse_block

FILES = 5  # files whose rows are read
HEADERS = 48  # files whose header or schema is read
CHUNKS = 15  # pieces of rows, over all files
CHUNK_BYTES, CHUNK_ROWS = 1 << 17, 1000
START = 256  # bytes that tell what a file is
UNPACKED = 24 << 20  # a packed file is read to its end if it unpacks to no more than this, about


@dataclass(frozen=True)
class Chunk:
    """Rows of one place of a file.

    Attributes:
        file: The file.
        begin: Whether the chunk begins the file; its header is not among the lines.
        raw: The lines as they are in the file; empty for Parquet.
        layout: Names of the lines' fields.
        table: Good rows with the source's columns, [N].
        bad: Line -> reason.
        texts: Text of each bad line.
        first_line: Number in the file of line 0, from 1; 0 if it is not known.
    """

    file: LogFile
    begin: bool
    raw: bytes
    layout: Layout
    table: pa.Table
    bad: dict[int, str]
    texts: dict[int, bytes]
    first_line: int = 0

    @property
    def num_lines(self) -> int:
        return self.table.num_rows + len(self.bad)

    def place(self, line: int) -> str:
        """Where a line is, for messages."""
        return f"{self.file.name}, line {self.first_line + line}" if self.first_line else self.file.name


@dataclass
class Sample:
    """A sample of a source.

    Attributes:
        source: The source with the fields of its files as columns.
        rows: The source with the columns of rows.
        files: All files of the source.
        chunks: Rows of some of them, in file order.
        starts: File -> its first bytes, for text.
        heads: File -> first line without its line end, for sources with a header.
        schemas: File -> Arrow schema, for Parquet.
        refused: File -> why it does not match the source.
        damaged: File -> why its content cannot be read.
        reaches_end: Whether the end of the last file is in the sample.
        complete: Whether all rows of all files are.
    """

    source: Source
    rows: Source
    files: list[LogFile]
    chunks: list[Chunk] = field(default_factory=list)
    starts: dict[str, bytes] = field(default_factory=dict)
    heads: dict[str, bytes] = field(default_factory=dict)
    schemas: dict[str, pa.Schema] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    damaged: dict[str, str] = field(default_factory=dict)
    reaches_end: bool = True
    complete: bool = True

    @property
    def table(self) -> pa.Table:
        """All good rows of the sample, [N]."""
        empty = Layout.declared(self.rows).schema.empty_table()
        return pa.concat_tables([empty, *(chunk.table for chunk in self.chunks)])

    @property
    def num_lines(self) -> int:
        return sum(chunk.num_lines for chunk in self.chunks)

    def of_files(self, keep: Callable[[str], bool]) -> Sample:
        """The part of the sample whose files have a name that `keep` accepts."""
        of_names = {
            name: {file: value for file, value in getattr(self, name).items() if keep(file)}
            for name in ("starts", "heads", "schemas", "refused", "damaged")
        }
        files, chunks = [f for f in self.files if keep(f.name)], [c for c in self.chunks if keep(c.file.name)]
        return replace(self, files=files, chunks=chunks, **of_names)

    @property
    def file_types(self) -> dict[str, pa.DataType]:
        """Column -> its type in the first file that has it, for Parquet."""
        types: dict[str, pa.DataType] = {}
        for schema in self.schemas.values():
            for name, held in zip(schema.names, schema.types, strict=True):
                types.setdefault(self.source.rename.get(name.strip()) or name.strip(), held)
        return types

    def text_columns(self) -> dict[str, list[str]]:
        """Column -> the texts of its fields, for csv and tsv; empty for other formats."""
        if self.source.format not in ("csv", "tsv"):
            return {}
        kinds = dict.fromkeys(self.source.columns, "string")
        as_text = self.source.model_copy(update={"columns": kinds, "null_tokens": ()})
        tables = [parse_block(Layout(as_text, chunk.layout.fields), chunk.raw).table for chunk in self.chunks if chunk.raw]
        return {name: [text for table in tables for text in table[name].to_pylist()] for name in kinds} if tables else {}

    def key_values(self, column: str) -> list[Any]:
        """The values of a column in `objects` that are not missing."""
        path = Layout.declared(self.source).key_paths[column]
        return [found for value in self.objects() if (found := value_at(value, path)) is not None and found is not NO_OBJECT]

    def objects(self) -> list[dict[str, object]]:
        """The first JSON objects of each chunk, for jsonl."""
        found: list[dict[str, object]] = []
        for chunk in self.chunks if self.source.format == "jsonl" else ():
            for line in chunk.raw.split(b"\n")[:200]:
                try:
                    value = json.loads(line)
                except (ValueError, RecursionError):
                    continue
                found += [value] if isinstance(value, dict) else []
        return found


@dataclass(frozen=True)
class _Place:
    """Where some lines of a file are. first_line: number of the first one, from 1; 0 if it is not known."""

    file: LogFile
    layout: Layout
    header: bool
    first_line: int = 1

    def after(self, line: int = 0) -> _Place:
        return replace(self, first_line=line)


def read_sample(source: Source, files: list[LogFile], clock: Time | None = None) -> Sample:
    """Samples files of a source.

    Args:
        source: Columns and format.
        files: The files, in order. Some are chosen, the first and the last among them.
        clock: How event times are read, for a log.
    """
    sample = Sample(in_file(source), source, files)
    chosen = _spread(len(files), FILES)
    sample.complete = len(chosen) == len(files)
    share = max(CHUNKS // len(chosen), 3) if chosen else 0
    for n in _spread(len(files), HEADERS):
        _read_head(sample, files[n])
    for n in chosen:
        _read_rows(sample, files[n], share, clock, last=n == len(files) - 1)
    if files and not sample.num_lines and not sample.complete:  # files of days without rows
        _read_rows(sample, max(files, key=lambda file: file.size), share, clock, last=False)
    return sample


def _spread(count: int, most: int) -> list[int]:
    """At most `most` of `count` numbers, the first and the last among them."""
    return sorted({round(i) for i in np.linspace(0, count - 1, min(count, most))}) if count else []


def _read_head(sample: Sample, file: LogFile) -> None:
    source = sample.source
    try:
        path_values(sample.rows, file.name)
        if source.format == "parquet":
            with UPath(file.url).open("rb") as raw:
                stored = pq.read_schema(raw)
            sample.schemas[file.name] = schema = flat_schema(source, stored, file.name)
            column_names(source, schema, file.name)
        else:
            start = _read(file)
            sample.starts[file.name] = start[:START]
            line = start.removeprefix(BOM).split(b"\n", 1)[0].rstrip(b"\r")
            if line and source.header and source.format != "jsonl":
                line = split_rows(line) if source.multiline else line
                sample.heads[file.name] = line
                Layout.from_header(source, line, file.name)
    except WrongFile as error:
        sample.refused[file.name] = str(error)
    except DamagedFile as error:
        sample.damaged[file.name] = str(error)
    except (pa.ArrowInvalid, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the disk or the network failed, not the file
        sample.damaged[file.name] = f"not readable as Parquet: {str(error).splitlines()[0]}"


def _read_rows(sample: Sample, file: LogFile, share: int, clock: Time | None, last: bool) -> None:
    if file.name in sample.refused or file.name in sample.damaged:
        return
    if sample.source.format != "parquet":
        return _read_text(sample, file, share, last)
    try:
        _read_row_groups(sample, file, share, clock, last)
    except WrongFile as error:
        sample.refused[file.name] = str(error)
    except (pa.ArrowInvalid, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        sample.damaged[file.name] = str(error).splitlines()[0]


def _read(file: LogFile, start: int = 0) -> bytes:
    """The bytes of a file from `start` on: at least `CHUNK_BYTES`, or all if there are fewer."""
    held = bytearray()
    for piece in pieces(file, start):
        held += piece
        if len(held) >= CHUNK_BYTES:
            break
    return bytes(held)


def _read_text(sample: Sample, file: LogFile, share: int, last: bool) -> None:
    source = sample.source
    layout = Layout.declared(source)
    if source.header and file.name in sample.heads:
        layout = Layout.from_header(source, sample.heads[file.name], file.name)
    begin = _Place(file, layout, header=source.header and source.format != "jsonl")
    try:
        if file.splittable and file.size > share * CHUNK_BYTES:
            for start in (round(i) for i in np.linspace(0, file.size - CHUNK_BYTES, share)):
                data, at_end = _read(file, start)[:CHUNK_BYTES], start + CHUNK_BYTES >= file.size
                if start:
                    _add(sample, begin.after(), data[data.find(b"\n") + 1 :], at_end, from_end=at_end)
                else:
                    _add(sample, begin, data, at_end)
            sample.complete = False
        else:
            _read_through(sample, begin, share, last)
    except DamagedFile as error:
        sample.damaged[file.name] = str(error)


def _read_through(sample: Sample, begin: _Place, share: int, last: bool) -> None:
    """Reads a file that is small, or has no middle to begin at: its first bytes, and its last ones if it is not large."""
    held, read, tail, ended = bytearray(), 0, b"", True
    for piece in pieces(begin.file):
        read += len(piece)
        if len(held) < share * CHUNK_BYTES:
            held += piece
        else:
            tail = (tail + piece)[-CHUNK_BYTES:]
        if read > UNPACKED:
            ended = False
            break
    lines, whole = _lines(bytes(held)), ended and not tail
    if not whole and lines and not lines[-1].endswith(b"\n") and len(lines) > 1:
        lines.pop()
    for n in _spread(-(-len(lines) // CHUNK_ROWS), share):
        part = lines[n * CHUNK_ROWS : (n + 1) * CHUNK_ROWS]
        place = begin if n == 0 else begin.after(n * CHUNK_ROWS + 1)
        _add(sample, place, b"".join(part), at_end=True)
    if tail and ended:
        _add(sample, begin.after(), tail[tail.find(b"\n") + 1 :], at_end=True, from_end=True)
    sample.complete &= whole and len(lines) <= share * CHUNK_ROWS
    sample.reaches_end = ended if last else sample.reaches_end


def _lines(data: bytes) -> list[bytes]:
    """Lines that end with a line feed alone; `splitlines` also ends them at a carriage return."""
    lines = [line + b"\n" for line in data.split(b"\n")]
    lines[-1] = lines[-1][:-1]
    return lines if lines[-1] else lines[:-1]


def _add(sample: Sample, place: _Place, data: bytes, at_end: bool, *, from_end: bool = False) -> None:
    """Parses the whole lines of some bytes, the first `CHUNK_ROWS` or the last."""
    skipped = 0
    if place.first_line == 1:
        skipped = len(BOM) if data.startswith(BOM) else 0
        if place.header:
            skipped = data.find(b"\n") + 1 or len(data)
    end = len(data) if at_end or b"\n" not in data[skipped:] else data.rfind(b"\n") + 1
    lines = _lines(data[skipped:end])
    raw = b"".join(lines[-CHUNK_ROWS:] if from_end else lines[:CHUNK_ROWS])
    if not raw:
        return
    parsed = parse_block(place.layout, raw)
    table, bad = _shaped(sample, place.file, parsed.table, parsed.row_lines, parsed.bad)
    texts = {line: parsed.lines.text(line) for line in bad}
    first_line = place.first_line + (place.header and place.first_line == 1)
    sample.chunks.append(Chunk(place.file, place.first_line == 1, raw, place.layout, table, bad, texts, first_line))


def _shaped(
    sample: Sample, file: LogFile, table: pa.Table, lines: NDArray[np.int64], bad: dict[int, str]
) -> tuple[pa.Table, dict[int, str]]:
    """The rows that lines of a file give, and the lines that are bad."""
    if not is_shaped(sample.rows):
        return table, bad
    shaped = shape_rows(sample.rows, table, file.name)
    return shaped.table, dict(sorted((bad | {int(lines[line]): why for line, why in shaped.bad.items()}).items()))


def _read_row_groups(sample: Sample, file: LogFile, share: int, clock: Time | None, last: bool) -> None:
    with UPath(file.url).open("rb") as raw:
        footer = pq.read_metadata(raw)
    groups = _spread(footer.num_row_groups, share)
    rows = [footer.row_group(group).num_rows for group in groups]
    sample.complete &= len(groups) == footer.num_row_groups and all(count <= CHUNK_ROWS for count in rows)
    for group in groups:
        block = read_first_rows(sample.source, file, group, CHUNK_ROWS, clock)
        bad = dict(zip(block.bad_lines.tolist(), block.reasons, strict=True))
        table, bad = _shaped(sample, file, block.table, block.row_lines, bad)
        texts = {line: block.text_of(line) for line in bad}
        layout = Layout.declared(sample.source)
        sample.chunks.append(Chunk(file, group == 0, b"", layout, table, bad, texts))
    if last and groups:
        sample.reaches_end = rows[-1] <= CHUNK_ROWS
