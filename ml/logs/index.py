"""Which days' rows lie in which blocks of which files, so that a day opens only what it needs.

Built by one parallel pass over new and changed files; what it found in a file is kept in the lake (`log_index/`).
Where every row is of its dated path's day there is nothing to find, and nothing is read; in a log without a clock lines are
counted and not parsed. Reading rows is `ml.logs.scan`.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import asdict, dataclass, field
from functools import cached_property, partial
from itertools import pairwise
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray
from upath import UPath

from ml.catalog.log_spec import LogSpec
from ml.compute.runner import Runner
from ml.lake import Lake
from ml.logs.clock import day_bounds, day_index, day_key, position_parts
from ml.logs.scan import Scanned, Slice, count_lines, cut, file_day, pack, scan
from ml.logs.sources import LogFile, find_files
from ml.logs.validate_rows import UNPLACED

# What is kept of a file is read again where this has changed.
_FORMAT = 3


@dataclass(frozen=True)
class BlockIndex:
    """One block of a file. extent: its lines, a header included; header: how many of these are one.

    The rest is of logs with a clock. rows, bad: how many of each day's (index as text). leading: bad lines without a time of
    their own before the first good row; first_day, last_day: of its good rows (UNPLACED without any); earliest, latest: event
    times among its good rows.
    """

    index: int
    extent: int
    header: int
    rows: dict[str, int] = field(default_factory=dict)
    bad: dict[str, int] = field(default_factory=dict)
    leading: int = 0
    first_day: int = UNPLACED
    last_day: int = UNPLACED
    earliest: int = 0
    latest: int = 0

    @property
    def lines(self) -> int:
        return self.extent - self.header


@dataclass(frozen=True)
class FileIndex:
    """One file; blocks is None where nothing needed to be read."""

    file: LogFile
    blocks: tuple[BlockIndex, ...] | None


@dataclass(frozen=True)
class BlockPlan:
    """How to place a block's lines. first_line: number in the file of its first line, from 1. inherited: the day of bad lines
    before its first good row. position: number in the log of its first line, from 0 and without headers, less its header."""

    first_line: int
    inherited: int
    position: int


@dataclass(frozen=True)
class LogIndex:
    """The files of a log and what is in them. Days are partition keys.

    >>> index = LogIndex.build(log, "/landing/globo", lake, LocalRunner())  # doctest: +SKIP
    >>> index.lines["clicks.zip!clicks/clicks_hour_000.csv"]["2017-10-01"]  # doctest: +SKIP
    711
    """

    log: LogSpec
    files: tuple[FileIndex, ...]

    @classmethod
    def build(cls, log: LogSpec, logs: str | UPath, lake: Lake, runner: Runner, day: str | None = None) -> LogIndex:
        """Index all files, or of a log with dated paths those that may hold rows of `day`. Raises `NoLogs`, `WrongFile`."""
        files = find_files(log.source, logs)
        if log.source.dated:
            files = [file for file in files if _near(log, file, day)]
        if log.source.dated and not log.source.spill_days:
            return cls(log, tuple(FileIndex(file, None) for file in files))
        folder = lake.root / "log_index" / log.dataset / log.stage
        reading = f"{log.fingerprint} {log.partitions.end}"  # lines beyond the last day are counted as of it
        found = {n: index for n, file in enumerate(files) if (index := _cached(folder, reading, file)) is not None}
        slices = [one for n, file in enumerate(files) if n not in found for one in cut(file, n)]
        blocks: dict[int, list[BlockIndex]] = {n: [] for n in range(len(files)) if n not in found}
        for done in runner.map(partial(_index_task, log), pack(slices)):
            for n, block in done:
                blocks[n].append(block)
        for n, of_file in blocks.items():
            found[n] = FileIndex(files[n], tuple(sorted(of_file, key=lambda block: block.index)))
            _keep(folder, reading, found[n])
        return cls(log, tuple(found[n] for n in range(len(files))))

    @cached_property
    def parts(self) -> NDArray[np.int64]:
        """In a log without a clock: the lines at which each day begins, and the last ends, int64 [days + 1]."""
        total = sum(block.lines for file in self.files for block in file.blocks or ())
        return position_parts(total, len(day_bounds(self.log)) - 1)

    @cached_property
    def plans(self) -> dict[str, dict[int, BlockPlan]]:
        """File name -> block -> how to place its lines; without files that nothing was read of."""
        plans: dict[str, dict[int, BlockPlan]] = {}
        position = 0
        for of_file in self.files:
            if of_file.blocks is None:
                continue
            line, placed = 1, {}
            last = next((b.first_day for b in of_file.blocks if b.first_day != UNPLACED), self._fallback(of_file.file))
            for block in of_file.blocks:
                placed[block.index] = BlockPlan(line, last, position - block.header)
                line, position = line + block.extent, position + block.lines
                last = block.last_day if block.last_day != UNPLACED else last
            plans[of_file.file.name] = placed
        return plans

    @cached_property
    def lines(self) -> dict[str, dict[str, int]]:
        """File name -> day -> lines: rows and quarantined ones. Their sum over days is the file's lines, a header apart."""
        counted: dict[str, dict[str, int]] = {}
        for of_file in self.files:
            lines: Counter[int] = Counter()
            for block in of_file.blocks or ():
                lines.update(self._lines(of_file, block))
            counted[of_file.file.name] = {day_key(self.log, day): lines[day] for day in sorted(lines)}
        return counted

    def in_order(self, day: str) -> bool:
        """Whether each block's rows of a day come no earlier than those of the blocks before it, as far as is known."""
        if self.log.time.by_position:
            return True
        index = day_index(self.log, day)
        first, end = day_bounds(self.log)[index : index + 2].tolist()
        spans = [
            (max(block.earliest, first), min(block.latest, end - 1))
            for of_file in self.files
            for block in of_file.blocks or ()
            if block.rows.get(str(index))
        ]
        known = all(of_file.blocks is not None or self._fallback(of_file.file) != index for of_file in self.files)
        return known and all(before[1] <= after[0] for before, after in pairwise(spans))

    def wanted(self, day: str) -> list[tuple[int, tuple[int, ...] | None]]:
        """Place of each file with lines of a day, and the blocks that hold them (None: any may)."""
        index = day_index(self.log, day)
        found: list[tuple[int, tuple[int, ...] | None]] = []
        for n, of_file in enumerate(self.files):
            if of_file.blocks is None:
                if self._fallback(of_file.file) == index:
                    found.append((n, None))
            elif hit := tuple(block.index for block in of_file.blocks if self._lines(of_file, block)[index]):
                found.append((n, hit))
        return found

    @cached_property
    def signatures(self) -> dict[str, str]:
        """Day -> hash of the names and stamps of the files with lines of that day (of all, in a log without a clock), and of
        how many lines of the day each has."""
        touched: dict[int, list[str]] = {}
        everything = range(len(day_bounds(self.log)) - 1) if self.log.time.by_position else ()
        for of_file in self.files:
            name, stamp = of_file.file.name, of_file.file.stamp
            lines = Counter(dict.fromkeys((self._fallback(of_file.file),) if of_file.blocks is None else everything, 0))
            for block in of_file.blocks or ():
                lines.update(self._lines(of_file, block))
            for day, count in lines.items():
                touched.setdefault(day, []).append(f"{name} {stamp} {count}")
        reading = self.log.fingerprint
        return {day_key(self.log, day): _hash("\n".join([reading, *names])) for day, names in sorted(touched.items())}

    def signature(self, day: str) -> str:
        """`signatures` of a day, also for one without lines."""
        return self.signatures.get(day, _hash(self.log.fingerprint))

    def _fallback(self, file: LogFile) -> int:
        return min(max(file_day(self.log, file) or 0, 0), len(day_bounds(self.log)) - 2)

    def _lines(self, of_file: FileIndex, block: BlockIndex) -> Counter[int]:
        """Lines of a block by day."""
        plan = self.plans[of_file.file.name][block.index]
        if self.log.time.by_position:
            begin = plan.position + block.header
            ends = np.clip(self.parts, begin, begin + block.lines)
            return Counter({day: int(n) for day, n in enumerate(np.diff(ends)) if n})
        placed = Counter({int(day): n for day, n in block.rows.items()})
        placed.update({int(day): n for day, n in block.bad.items()})
        return placed + Counter({plan.inherited: block.leading})


def _near(log: LogSpec, file: LogFile, day: str | None) -> bool:
    """Whether a dated file may hold rows of a day, or of any."""
    low, high = (0, len(day_bounds(log)) - 2) if day is None else (day_index(log, day),) * 2
    spill = log.source.spill_days
    return low - spill <= (file_day(log, file) or 0) <= high + spill


def _index_task(log: LogSpec, slices: list[Slice]) -> list[tuple[int, BlockIndex]]:
    if log.time.by_position:
        return [(one.order, BlockIndex(*counted)) for one in slices for counted in count_lines(log, one)]
    return [(one.order, _summary(block)) for one in slices for block in scan(log, one)]


def _summary(block: Scanned) -> BlockIndex:
    leading = (block.bad_day == UNPLACED) & (block.bad_after == 0)
    some = len(block.day) > 0
    return BlockIndex(
        index=block.records.index,
        extent=block.records.extent,
        header=block.records.header,
        rows=_count(block.day),
        bad=_count(place_bad(block)[~leading]),
        leading=int(leading.sum()),
        first_day=int(block.day[0]) if some else UNPLACED,
        last_day=int(block.day[-1]) if some else UNPLACED,
        earliest=int(block.times.min()) if some else 0,
        latest=int(block.times.max()) if some else 0,
    )


def place_bad(block: Scanned) -> NDArray[np.int32]:
    """The days of a block's bad lines [Q]: their own where a time says it, else of the good row before, else UNPLACED."""
    before = np.concatenate([np.full(1, UNPLACED, np.int32), block.day])[block.bad_after]
    return np.where(block.bad_day == UNPLACED, before, block.bad_day)


def _count(days: NDArray[np.int32]) -> dict[str, int]:
    values, counts = np.unique(days, return_counts=True)
    return {str(day): int(n) for day, n in zip(values, counts, strict=True)}


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _path(folder: UPath, file: LogFile) -> UPath:
    return folder / f"{hashlib.sha256(f'{file.url} {file.name}'.encode()).hexdigest()[:32]}.json"


def _cached(folder: UPath, reading: str, file: LogFile) -> FileIndex | None:
    try:
        kept = json.loads(_path(folder, file).read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    if (kept.get("format"), kept["reading"], kept["name"], kept["stamp"]) != (_FORMAT, reading, file.name, file.stamp):
        return None
    return FileIndex(file, tuple(BlockIndex(**block) for block in kept["blocks"]))


def _keep(folder: UPath, reading: str, index: FileIndex) -> None:
    blocks = [asdict(block) for block in index.blocks or ()]
    found = {"format": _FORMAT, "reading": reading, "name": index.file.name, "stamp": index.file.stamp, "blocks": blocks}
    kept = json.dumps(found)
    path = _path(folder, index.file)
    aside = path.with_name(f".{path.name}.{uuid4().hex}")  # another process may be at it too
    folder.mkdir(parents=True, exist_ok=True)
    aside.write_text(kept)
    aside.rename(path)
