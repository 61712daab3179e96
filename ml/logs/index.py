"""Indexes which blocks of which files hold the rows of a day, so that a day opens only what it needs.

One parallel pass over new and changed files builds the index. With dated paths and no spill, paths alone are enough and no
file is read. In a log without a clock, lines are counted and not parsed. `ml.logs.validated_blocks` reads rows.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from upath import UPath

from ml.catalog.log_spec import LogSpec
from ml.compute.runner import Runner
from ml.lake import Lake
from ml.logs.block_cache import MAX_BYTES, BlockCache
from ml.logs.block_ranges import BlockRange, pack_tasks, split_file
from ml.logs.clock import day_index, day_key, partition_bounds, position_parts
from ml.logs.file_index import BlockIndex, FileIndex, FileIndexStore
from ml.logs.formats import count_lines
from ml.logs.sources import LogFile, file_day, find_files
from ml.logs.validate_rows import AFTER, BEFORE, UNPLACED, place_file
from ml.logs.validated_blocks import read_validated_blocks


@dataclass(frozen=True)
class BlockPlacement:
    """Where the lines of a block belong.

    Attributes:
        first_line: Number in the file of the block's first line, from 1.
        inherited_day: Day of bad lines before the block's first row; BEFORE or AFTER for lines outside the log's days.
        position: Number in the log of the block's first line, from 0, counted without headers; less the block's own header.
    """

    first_line: int
    inherited_day: int
    position: int


@dataclass(frozen=True)
class LogIndex:
    r"""The files of a log and what they hold, by day. Days are partition keys.

    Attributes:
        log: The log.
        files: What each file holds.
        cache: The blocks that were parsed for the index; None for logs whose index needs no parsing.

    Example:
        >>> import tempfile, pathlib
        >>> from ml.compute.runner import LocalRunner
        >>> folder = pathlib.Path(tempfile.mkdtemp())
        >>> _ = (folder / "clicks.csv").write_text("0,hat\n86400,bag\n86401,hat\n")
        >>> log = LogSpec(
        ...     dataset="shop",
        ...     source={"files": "*.csv", "format": "csv", "columns": {"time": "int", "item": "string"}},
        ...     time={"column": "time"},
        ...     partitions={"start": "1970-01-01", "end": "1970-01-02"},
        ... )
        >>> index = LogIndex.build(log, folder, Lake.at(folder / "lake"), LocalRunner())
        >>> index.lines
        {'clicks.csv': {'1970-01-01': 1, '1970-01-02': 2}}
    """

    log: LogSpec
    files: tuple[FileIndex, ...]
    cache: BlockCache | None = None

    @classmethod
    def build(
        cls,
        log: LogSpec,
        folder: str | UPath,
        lake: Lake,
        runner: Runner,
        day: str | None = None,
        cache_bytes: int = MAX_BYTES,
    ) -> LogIndex:
        """Indexes the files of a log. Only new and changed files are read.

        Args:
            log: The log.
            folder: The landing folder.
            lake: Keeps what files hold, in `log_index/`.
            runner: Runs the tasks that read files.
            day: With dated paths, index only the files that can hold rows of this day.
            cache_bytes: Approximate bytes of log text whose parsed blocks are kept in the lake.

        Raises:
            NoLogs: There are no files.
            WrongFile: A file lacks a column.
        """
        everything = files = find_files(log.source, folder)
        if log.source.dated:
            files = [file for file in files if _near(log, file, day)]
        if log.source.dated and not log.source.spill_days:
            return cls(log, tuple(FileIndex(file, None) for file in files))
        store = FileIndexStore(log, lake)
        found = {n: index for n, file in enumerate(files) if (index := store.load(file)) is not None}
        new = {n: file for n, file in enumerate(files) if n not in found}
        cache, cached = None, frozenset[int]()
        if not log.time.by_position and log.source.format != "parquet":
            cache = BlockCache(store.folder / "blocks", store.reading, cache_bytes)
            cached = cache.make_room(everything, new) if new else cached
        ranges = [part for n, file in new.items() for part in split_file(file, n)]
        blocks: dict[int, list[BlockIndex]] = {n: [] for n in new}
        for done in runner.map(partial(_index_task, log, cache, cached), pack_tasks(ranges)):
            for n, block in done:
                blocks[n].append(block)
        for n, of_file in blocks.items():
            found[n] = FileIndex(files[n], tuple(sorted(of_file, key=lambda block: block.index)))
            store.save(found[n])
        return cls(log, tuple(found[n] for n in range(len(files))), cache)

    @cached_property
    def parts(self) -> NDArray[np.int64]:
        """In a log without a clock: the line at which each day begins, and the end of the last, int64 [days + 1]."""
        total = sum(block.data_lines for file in self.files for block in file.blocks or ())
        return position_parts(total, len(partition_bounds(self.log)) - 1)

    @cached_property
    def placements(self) -> dict[str, dict[int, BlockPlacement]]:
        """File name -> block -> placement of its lines; without the files that were not read."""
        placements: dict[str, dict[int, BlockPlacement]] = {}
        position = 0
        for of_file in self.files:
            if of_file.blocks is None:
                continue
            line, placed = 1, {}
            last = next((b.first_day for b in of_file.blocks if b.first_day != UNPLACED), self._path_day(of_file.file))
            for block in of_file.blocks:
                placed[block.index] = BlockPlacement(line, last, position - block.header_lines)
                line, position = line + block.num_lines, position + block.data_lines
                last = block.last_day if block.last_day != UNPLACED else last
            placements[of_file.file.name] = placed
        return placements

    @cached_property
    def lines(self) -> dict[str, dict[str, int]]:
        """File name -> day -> number of lines, good and bad, of the lines on the log's days."""
        counted: dict[str, dict[str, int]] = {}
        for of_file in self.files:
            lines: Counter[int] = Counter()
            for block in of_file.blocks or ():
                lines.update(self._lines_by_day(of_file, block))
            counted[of_file.file.name] = {
                day_key(self.log, day): lines[day] for day in sorted(lines) if day not in (BEFORE, AFTER)
            }
        return counted

    def out_of_range(self, day: str) -> int:
        """Number of lines before the log's first day, if `day` is that, and after its last, if `day` is that.

        Such lines are not malformed: the log's days can be a part of what its files hold.
        """
        ends = {BEFORE: 0, AFTER: len(partition_bounds(self.log)) - 2}
        wanted = [end for end, at in ends.items() if at == day_index(self.log, day)]
        blocks = [self._lines_by_day(of_file, block) for of_file in self.files for block in of_file.blocks or ()]
        return sum(lines[end] for lines in blocks for end in wanted)

    def in_order(self, day: str) -> bool:
        """Whether no block has rows of the day earlier than rows of the blocks before it; False if that is unknown."""
        if self.log.time.by_position:
            return True
        index = day_index(self.log, day)
        first, end = partition_bounds(self.log)[index : index + 2].tolist()
        spans = [
            (max(block.earliest, first), min(block.latest, end - 1))
            for of_file in self.files
            for block in of_file.blocks or ()
            if block.rows.get(str(index))
        ]
        known = all(of_file.blocks is not None or self._path_day(of_file.file) != index for of_file in self.files)
        return known and all(before[1] <= after[0] for before, after in pairwise(spans))

    def blocks_of(self, day: str) -> list[tuple[int, tuple[int, ...] | None]]:
        """Number of each file with lines of a day, and the blocks that hold them (None: any block can)."""
        index = day_index(self.log, day)
        found: list[tuple[int, tuple[int, ...] | None]] = []
        for n, of_file in enumerate(self.files):
            if of_file.blocks is None:
                if self._path_day(of_file.file) == index:
                    found.append((n, None))
            elif hit := tuple(block.index for block in of_file.blocks if self._lines_by_day(of_file, block)[index]):
                found.append((n, hit))
        return found

    @cached_property
    def signatures(self) -> dict[str, str]:
        """Day -> hash of the day's lines in the log's files, so that a changed file concerns only the days that changed.

        Hashes are by block, so a change of length in a file of several blocks can also concern later days, which depend on the
        changed day in any case. For files that were not read, and in a log without a clock, names and stamps are hashed.
        """
        touched: dict[int, list[str]] = {}
        everything = range(len(partition_bounds(self.log)) - 1) if self.log.time.by_position else ()
        for of_file in self.files:
            name, stamp = of_file.file.name, of_file.file.stamp
            parts: dict[int, list[str]] = {}
            if of_file.blocks is None:
                parts[self._path_day(of_file.file)] = [stamp]
            for block in of_file.blocks or () if not everything else ():
                for day, part in self._content_by_day(of_file, block):
                    parts.setdefault(day, []).append(part)
            if everything:
                counts = sum((self._lines_by_day(of_file, block) for block in of_file.blocks or ()), Counter[int]())
                parts = {day: [stamp, str(counts[day])] for day in everything}
            for day, found in parts.items():
                if day not in (BEFORE, AFTER):
                    touched.setdefault(day, []).append(" ".join([name, *found]))
        reading = self.log.fingerprint
        return {day_key(self.log, day): _hash("\n".join([reading, *names])) for day, names in sorted(touched.items())}

    def signature(self, day: str) -> str:
        """The entry of `signatures`; a hash of the log's fingerprint for a day without lines."""
        return self.signatures.get(day, _hash(self.log.fingerprint))

    def _path_day(self, file: LogFile) -> int:
        return place_file(self.log, file_day(self.log, file))

    def _content_by_day(self, of_file: FileIndex, block: BlockIndex) -> Iterator[tuple[int, str]]:
        """Day and digest of the lines of each day in a block, with their place in the file if some of them are malformed."""
        placement = self.placements[of_file.file.name][block.index]
        for key, digest in block.digests.items():
            day = placement.inherited_day if int(key) == UNPLACED else int(key)
            numbered = int(key) == UNPLACED or block.bad.get(key)  # the quarantine has their line numbers
            yield day, f"{digest} {placement.first_line}" if numbered else digest

    def _lines_by_day(self, of_file: FileIndex, block: BlockIndex) -> Counter[int]:
        placement = self.placements[of_file.file.name][block.index]
        if self.log.time.by_position:
            begin = placement.position + block.header_lines
            ends = np.clip(self.parts, begin, begin + block.data_lines)
            return Counter({day: int(n) for day, n in enumerate(np.diff(ends)) if n})
        placed = Counter({int(day): n for day, n in block.rows.items()})
        placed.update({int(day): n for day, n in block.bad.items()})
        placed.update({BEFORE: block.before, AFTER: block.after})
        return placed + Counter({placement.inherited_day: block.leading})


def _near(log: LogSpec, file: LogFile, day: str | None) -> bool:
    """Whether a dated file can hold rows of `day`; if None, of any day of the log."""
    low, high = (0, len(partition_bounds(log)) - 2) if day is None else (day_index(log, day),) * 2
    spill = log.source.spill_days
    return low - spill <= (file_day(log, file) or 0) <= high + spill


def _index_task(
    log: LogSpec, cache: BlockCache | None, cached: frozenset[int], ranges: list[BlockRange]
) -> list[tuple[int, BlockIndex]]:
    """Indexes the blocks of ranges, and writes the blocks of the files in `cached` to the cache."""
    if log.time.by_position:
        counted = ((part, count_lines(log.source, part.file, part.first, part.wanted)) for part in ranges)
        return [(part.file_number, BlockIndex(*block)) for part, blocks in counted for block in blocks]
    found = []
    for part in ranges:
        for block in read_validated_blocks(log, part):
            found.append((part.file_number, BlockIndex.of(block)))
            if cache and part.file_number in cached:
                cache.write(part.file, block)
    return found


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
