"""Which days' rows lie in which blocks of which files, so that a day opens only what it needs.

Built by one parallel pass over new and changed files; what it found in a file is kept in the lake (`log_index/`).
Where every row is of its dated path's day there is nothing to find, and nothing is read. Reading rows is `ml.logs.scan`.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property, partial

import numpy as np
from numpy.typing import NDArray
from upath import UPath

from ml.catalog.spec import DatasetSpec
from ml.lake import Lake
from ml.logs.clock import day_bounds, day_index, day_key, position_parts
from ml.logs.examine import UNPLACED
from ml.logs.scan import Scanned, Slice, cut, file_day, pack, scan
from ml.logs.sources import LogFile, find_files
from ml.parallel import Runner


@dataclass(frozen=True)
class BlockIndex:
    """One block of a file. extent: its lines, a header included. rows, bad: how many of each day's (index as text).

    leading: bad lines without a time of their own before the first good row; first_day, last_day: of its good rows
    (UNPLACED without any). In a log without a clock, rows are counted as of day 0 and bad_after says after how many good
    rows each bad line comes.
    """

    index: int
    extent: int
    rows: dict[str, int]
    bad: dict[str, int]
    leading: int
    first_day: int
    last_day: int
    bad_after: list[int]

    @property
    def row_count(self) -> int:
        return sum(self.rows.values())


@dataclass(frozen=True)
class FileIndex:
    """One file; blocks is None where nothing needed to be read."""

    file: LogFile
    blocks: tuple[BlockIndex, ...] | None


@dataclass(frozen=True)
class BlockPlan:
    """How to place a block's lines. first_line: number of its first line, from 1. inherited: the day of bad lines before
    its first good row. base_row: good rows of the log before it (a log without a clock)."""

    first_line: int
    inherited: int
    base_row: int


@dataclass(frozen=True)
class LogIndex:
    """The files of a log and what is in them. Days are partition keys.

    >>> index = LogIndex.build(spec, "/landing/globo", lake, LocalRunner())  # doctest: +SKIP
    >>> index.counts["clicks.zip!clicks/clicks_hour_000.csv"]["2017-10-01"]  # rows, quarantined lines  # doctest: +SKIP
    (711, 0)
    """

    spec: DatasetSpec
    files: tuple[FileIndex, ...]

    @classmethod
    def build(cls, spec: DatasetSpec, logs: str | UPath, lake: Lake, runner: Runner, day: str | None = None) -> LogIndex:
        """Index all files, or of a log with dated paths those that may hold rows of `day`. Raises `NoLogs`, `WrongFile`."""
        files = find_files(spec.source, logs)
        if spec.source.dated:
            files = [file for file in files if _near(spec, file, day)]
        if spec.source.dated and not spec.source.spill_days:
            return cls(spec, tuple(FileIndex(file, None) for file in files))
        folder = lake.root / "log_index" / spec.name
        reading = reading_fingerprint(spec)
        found = {n: index for n, file in enumerate(files) if (index := _cached(folder, reading, file)) is not None}
        slices = [one for n, file in enumerate(files) if n not in found for one in cut(file, n)]
        blocks: dict[int, list[BlockIndex]] = {n: [] for n in range(len(files)) if n not in found}
        for done in runner.map(partial(_index_task, spec), pack(slices)):
            for n, block in done:
                blocks[n].append(block)
        for n, of_file in blocks.items():
            found[n] = FileIndex(files[n], tuple(sorted(of_file, key=lambda block: block.index)))
            _keep(folder, reading, found[n])
        return cls(spec, tuple(found[n] for n in range(len(files))))

    @cached_property
    def parts(self) -> NDArray[np.int64]:
        """In a log without a clock: the rows at which each day begins, and the last ends, int64 [days + 1]."""
        total = sum(block.row_count for file in self.files for block in file.blocks or ())
        return position_parts(total, len(day_bounds(self.spec)) - 1)

    @cached_property
    def plans(self) -> dict[str, dict[int, BlockPlan]]:
        """File name -> block -> how to place its lines; without files that nothing was read of."""
        plans: dict[str, dict[int, BlockPlan]] = {}
        base = 0
        for of_file in self.files:
            if of_file.blocks is None:
                continue
            begin, end = base, base + sum(block.row_count for block in of_file.blocks)
            line, last, placed = 1, UNPLACED, {}
            following = next((b.first_day for b in of_file.blocks if b.first_day != UNPLACED), self._fallback(of_file.file))
            for block in of_file.blocks:
                inherited = last if last != UNPLACED else following
                if self.spec.time.by_position:
                    inherited = self._day_of_row(base - 1 if base > begin else begin) if end > begin else 0
                placed[block.index] = BlockPlan(line, inherited, base)
                line, base = line + block.extent, base + block.row_count
                last = block.last_day if block.last_day != UNPLACED else last
            plans[of_file.file.name] = placed
        return plans

    @cached_property
    def counts(self) -> dict[str, dict[str, tuple[int, int]]]:
        """File name -> day -> good rows and quarantined lines. Their sum over days is the file's lines, a header apart."""
        counted: dict[str, dict[str, tuple[int, int]]] = {}
        for of_file in self.files:
            rows: Counter[int] = Counter()
            bad: Counter[int] = Counter()
            for block in of_file.blocks or ():
                in_block = self._counts(of_file, block)
                rows.update(in_block[0])
                bad.update(in_block[1])
            days = sorted({*rows, *bad})
            counted[of_file.file.name] = {day_key(self.spec, day): (rows[day], bad[day]) for day in days}
        return counted

    def wanted(self, day: str) -> list[tuple[int, tuple[int, ...] | None]]:
        """Place of each file with lines of a day, and the blocks that hold them (None: any may)."""
        index = day_index(self.spec, day)
        found: list[tuple[int, tuple[int, ...] | None]] = []
        for n, of_file in enumerate(self.files):
            if of_file.blocks is None:
                if self._fallback(of_file.file) == index:
                    found.append((n, None))
            elif hit := tuple(block.index for block in of_file.blocks if self._touches(of_file, block, index)):
                found.append((n, hit))
        return found

    @cached_property
    def signatures(self) -> dict[str, str]:
        """Day -> hash of the names and stamps of the files with lines of that day (of all, in a log without a clock)."""
        touched: dict[int, list[str]] = {}
        everything = range(len(day_bounds(self.spec)) - 1) if self.spec.time.by_position else ()
        for of_file in self.files:
            days = {self._fallback(of_file.file)} if of_file.blocks is None else set(everything)
            for block in of_file.blocks or () if not everything else ():
                days.update(day for counts in self._counts(of_file, block) for day in counts)
            for day in days:
                touched.setdefault(day, []).append(f"{of_file.file.name} {of_file.file.stamp}")
        reading = reading_fingerprint(self.spec)
        return {day_key(self.spec, day): _hash("\n".join([reading, *names])) for day, names in sorted(touched.items())}

    def signature(self, day: str) -> str:
        """`signatures` of a day, also for one without lines."""
        return self.signatures.get(day, _hash(reading_fingerprint(self.spec)))

    def _day_of_row(self, row: int) -> int:
        return int(np.searchsorted(self.parts, row, side="right")) - 1

    def _fallback(self, file: LogFile) -> int:
        return min(max(file_day(self.spec, file) or 0, 0), len(day_bounds(self.spec)) - 2)

    def _touches(self, of_file: FileIndex, block: BlockIndex, day: int) -> bool:
        return any(counts[day] for counts in self._counts(of_file, block))

    def _counts(self, of_file: FileIndex, block: BlockIndex) -> tuple[Counter[int], Counter[int]]:
        """Good rows and bad lines of a block by day."""
        plan = self.plans[of_file.file.name][block.index]
        if not self.spec.time.by_position:
            rows, bad = (Counter({int(day): n for day, n in of.items()}) for of in (block.rows, block.bad))
            return rows, bad + Counter({plan.inherited: block.leading})
        ends = np.clip(self.parts, plan.base_row, plan.base_row + block.row_count)
        rows = Counter({day: int(n) for day, n in enumerate(np.diff(ends)) if n})
        after = np.array(block.bad_after, np.int64)
        bad = Counter(bad_days_by_position(after, plan, self.parts).tolist())
        return rows, bad


def bad_days_by_position(after: NDArray[np.int64], plan: BlockPlan, parts: NDArray[np.int64]) -> NDArray[np.int64]:
    """The days of bad lines [Q], each after so many of its block's good rows: that of the last of these."""
    of_row = np.searchsorted(parts, plan.base_row + after - 1, side="right") - 1
    return np.where(after == 0, plan.inherited, of_row)


def changed_days(previous: LogIndex | Mapping[str, str], current: LogIndex | Mapping[str, str]) -> set[str]:
    """Days that a new, changed or removed file touches; an index or its `signatures`, as a sensor keeps them."""
    before, now = (index.signatures if isinstance(index, LogIndex) else index for index in (previous, current))
    return {day for day in {*before, *now} if before.get(day) != now.get(day)}


def reading_fingerprint(spec: DatasetSpec) -> str:
    """Hash of what shapes raw rows: where they lie and how they are read, their time, label and days."""
    shaped = spec.model_dump(mode="json", include={"name", "source", "time", "partitions", "label"})
    return _hash(json.dumps(shaped, sort_keys=True))


def _near(spec: DatasetSpec, file: LogFile, day: str | None) -> bool:
    """Whether a dated file may hold rows of a day, or of any."""
    low, high = (0, len(day_bounds(spec)) - 2) if day is None else (day_index(spec, day),) * 2
    spill = spec.source.spill_days
    return low - spill <= (file_day(spec, file) or 0) <= high + spill


def _index_task(spec: DatasetSpec, slices: list[Slice]) -> list[tuple[int, BlockIndex]]:
    return [(one.order, _summary(spec, block)) for one in slices for block in scan(spec, one)]


def _summary(spec: DatasetSpec, block: Scanned) -> BlockIndex:
    by_position = spec.time.by_position
    days = np.zeros_like(block.day) if by_position else block.day
    unplaced = block.bad_day == UNPLACED
    leading = unplaced & (block.bad_after == 0)
    placed = place_bad(block)[~leading]
    return BlockIndex(
        index=block.records.index,
        extent=block.records.extent,
        rows=_count(days),
        bad={} if by_position else _count(placed),
        leading=0 if by_position else int(leading.sum()),
        first_day=int(block.day[0]) if len(block.day) else UNPLACED,
        last_day=int(block.day[-1]) if len(block.day) else UNPLACED,
        bad_after=block.bad_after.tolist() if by_position else [],
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
    if (kept["reading"], kept["name"], kept["stamp"]) != (reading, file.name, file.stamp):
        return None
    return FileIndex(file, tuple(BlockIndex(**block) for block in kept["blocks"]))


def _keep(folder: UPath, reading: str, index: FileIndex) -> None:
    blocks = [asdict(block) for block in index.blocks or ()]
    kept = json.dumps({"reading": reading, "name": index.file.name, "stamp": index.file.stamp, "blocks": blocks})
    path = _path(folder, index.file)
    aside = path.with_name(f".{path.name}.{_hash(kept)}")
    folder.mkdir(parents=True, exist_ok=True)
    aside.write_text(kept)
    aside.rename(path)
