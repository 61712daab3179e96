"""Keeps the blocks that indexing has parsed, so that the days of a log need not parse them again.

The cache is in the lake, beside the file indices, and bounded. Everything in it can be deleted at any time: a block that is
absent or unreadable is parsed from its file. Only text files are cached, because Parquet files are fast to read.
"""

from __future__ import annotations

import heapq
import json
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from hashlib import sha256
from uuid import uuid4

import pyarrow as pa
from upath import UPath
from xxhash import xxh3_128_digest

from ml.catalog.log_spec import LogSpec
from ml.logs.block_ranges import BlockRange
from ml.logs.packed import suffix_of
from ml.logs.sources import LogFile
from ml.logs.validated_blocks import ValidatedBlock, read_validated_blocks

MAX_BYTES = 8 << 30
_FORMAT = 3  # increase it when the content of cached files changes
_UNPACKED = 6  # approximate ratio of text to its packed file
_DIGEST = 16  # bytes of the XXH3 hash that a cached file begins with
_BAD_SCHEMA = pa.schema([("line", pa.int64()), ("day", pa.int32()), ("reason", pa.string()), ("text", pa.binary())])


@dataclass(frozen=True)
class BlockCache:
    """Cached blocks of one log, one Arrow file each.

    Attributes:
        folder: Folder of the cached files.
        reading: Fingerprint of how the log is read. Blocks with another fingerprint are never returned.
        max_bytes: Approximate bytes of log text whose blocks are kept. Cached blocks are smaller than the text.
    """

    folder: UPath
    reading: str
    max_bytes: int = MAX_BYTES

    def make_room(self, files: Collection[LogFile], new: dict[int, LogFile]) -> frozenset[int]:
        """Prepares for the blocks of new files, and deletes what they replace.

        Blocks of files that were changed or removed are deleted. If the new files do not fit beside the others, the others
        are deleted too: newer files are more likely to have days that were not ingested yet. Blocks of a file that could
        still change without a new stamp are not kept, because they would be read in place of its new content.

        Args:
            files: All files of the log.
            new: Number -> file, of the files about to be indexed.

        Returns:
            Numbers of the new files whose blocks are to be written.
        """
        sizes = {n: _text_bytes(file) for n, file in new.items() if file.is_settled}
        indexed_now = {(file.url, file.name) for file in new.values()}
        others = [file for file in files if (file.url, file.name) not in indexed_now]
        room = self.max_bytes - sum(map(_text_bytes, others))
        if sum(sizes.values()) > room:
            room, others = self.max_bytes, []
        valid = {self._key(file) for file in others}
        if self.folder.exists():
            for path in self.folder.iterdir():
                if path.name.partition("-")[0] not in valid:
                    path.unlink(missing_ok=True)
        fitting = set()
        for n, size in sizes.items():
            if size <= room:
                fitting.add(n)
                room -= size
        return frozenset(fitting)

    def write(self, file: LogFile, block: ValidatedBlock) -> None:
        """Stores one block."""
        path = self._path(file, block.index)
        self.folder.mkdir(parents=True, exist_ok=True)
        staged = path.with_name(f".{path.name}.{uuid4().hex}")  # another process can index the same file
        counts = {"index": block.index, "num_lines": block.num_lines, "header_lines": block.header_lines}
        counts |= {"before": block.before, "after": block.after, "first_day": block.first_day, "last_day": block.last_day}
        counts |= {"absent": None if block.absent is None else sorted(block.absent)}
        arrays = [*block.table.columns, pa.array(block.row_lines), pa.array(block.times), pa.array(block.days)]
        rows = pa.table(arrays, names=[*block.table.column_names, "", "", ""], metadata={"counts": json.dumps(counts)})
        bad = [block.bad_lines, block.bad_days, block.reasons, block.texts]
        bad_table = pa.table(bad, schema=_BAD_SCHEMA)
        options = pa.ipc.IpcWriteOptions(compression="lz4")
        sink = pa.BufferOutputStream()
        for table in (rows, bad_table):
            with pa.ipc.new_stream(sink, table.schema, options=options) as writer:
                writer.write_table(table.combine_chunks())
        data = sink.getvalue()
        with staged.open("wb") as file_out:
            file_out.write(xxh3_128_digest(data))
            file_out.write(data)
        with suppress(FileNotFoundError):  # another process has made room in the meantime
            staged.rename(path)

    def read(self, file: LogFile, index: int) -> ValidatedBlock | None:
        """Returns a block, or None if it is not cached or its file is damaged."""
        try:
            whole = memoryview(self._path(file, index).read_bytes())
        except FileNotFoundError:
            return None
        digest, data = whole[:_DIGEST], whole[_DIGEST:]
        if xxh3_128_digest(data) != digest:
            return None
        source = pa.BufferReader(data)
        rows, bad = pa.ipc.open_stream(source).read_all(), pa.ipc.open_stream(source).read_all()
        width = rows.num_columns - 3
        row_lines, times, days = (rows.column(width + n).to_numpy() for n in range(3))
        counts = json.loads(rows.schema.metadata[b"counts"])
        absent = counts.pop("absent")
        return ValidatedBlock(
            **counts,
            absent=None if absent is None else frozenset(absent),
            table=rows.select(range(width)).replace_schema_metadata(None),
            row_lines=row_lines,
            times=times,
            days=days,
            bad_lines=bad.column("line").to_numpy(),
            bad_days=bad.column("day").to_numpy(),
            reasons=bad.column("reason").to_pylist(),
            texts=bad.column("text").to_pylist(),
        )

    def read_blocks(self, log: LogSpec, part: BlockRange) -> Iterator[ValidatedBlock]:
        """Reads the blocks of a range like `read_validated_blocks`, from the cache if it has them."""
        wanted = part.wanted or ()
        cached = [index for index in wanted if self._path(part.file, index).exists()]
        if not cached:
            yield from read_validated_blocks(log, part)
            return
        others = tuple(index for index in wanted if index not in cached)
        parsed = read_validated_blocks(log, replace(part, wanted=others)) if others else iter(())
        yield from heapq.merge(parsed, self._read_or_parse(log, part, cached), key=lambda block: block.index)

    def _read_or_parse(self, log: LogSpec, part: BlockRange, indices: list[int]) -> Iterator[ValidatedBlock]:
        for index in indices:
            block = self.read(part.file, index)
            if block is not None:
                yield block
            else:  # deleted just now, or unreadable
                yield from read_validated_blocks(log, replace(part, wanted=(index,)))

    def _key(self, file: LogFile) -> str:
        return sha256(f"{_FORMAT} {self.reading} {file.url} {file.name} {file.stamp}".encode()).hexdigest()[:32]

    def _path(self, file: LogFile, index: int) -> UPath:
        return self.folder / f"{self._key(file)}-{index}.arrow"


def _text_bytes(file: LogFile) -> int:
    return file.size * (_UNPACKED if suffix_of(file.name) else 1)
