"""The index of one file of a log, by block, and its storage in the lake between runs.

`ml.logs.index` builds these and combines them into the index of a log.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray
from upath import UPath

from ml.catalog.log_spec import LogSpec
from ml.lake import Lake
from ml.logs.sources import LogFile
from ml.logs.validate_rows import UNPLACED
from ml.logs.validated_blocks import ValidatedBlock

_FORMAT = 6  # increase it when the fields change: files of another format are indexed again


@dataclass(frozen=True)
class BlockIndex:
    """What one block of a file holds. In a log without a clock only the lines are counted.

    Attributes:
        index: Number of the block in its file.
        num_lines: Lines of the block, a header included.
        header_lines: How many of them are a header.
        rows: Good rows by day (index as text, for JSON).
        bad: Bad lines by day.
        leading: Bad lines without a day, before the block's first row.
        before: Lines before the log's first day.
        after: Lines after the log's last day.
        first_day: Day of the first row, good or outside the log's days; UNPLACED without any.
        last_day: Day of the last such row; UNPLACED without any.
        earliest: Earliest event time of a good row.
        latest: Latest event time of a good row.
        digests: Hash of what the lines of each day hold, by day; UNPLACED for `leading`.
        absent: Columns whose key no line of the block has, in JSON; None without rows.
    """

    index: int
    num_lines: int
    header_lines: int
    rows: dict[str, int] = field(default_factory=dict)
    bad: dict[str, int] = field(default_factory=dict)
    leading: int = 0
    before: int = 0
    after: int = 0
    first_day: int = UNPLACED
    last_day: int = UNPLACED
    earliest: int = 0
    latest: int = 0
    digests: dict[str, str] = field(default_factory=dict)
    absent: list[str] | None = field(default_factory=list)

    @property
    def data_lines(self) -> int:
        """Lines without the header."""
        return self.num_lines - self.header_lines

    @classmethod
    def of(cls, block: ValidatedBlock) -> BlockIndex:
        """Summarises a block of a log with a clock."""
        leading = block.bad_days == UNPLACED
        rows = len(block.days)
        return cls(
            index=block.index,
            num_lines=block.num_lines,
            header_lines=block.header_lines,
            rows=_count(block.days),
            bad=_count(block.bad_days[~leading]),
            leading=int(leading.sum()),
            before=block.before,
            after=block.after,
            first_day=block.first_day,
            last_day=block.last_day,
            earliest=int(block.times.min()) if rows else 0,
            latest=int(block.times.max()) if rows else 0,
            digests={str(day): digest for day, digest in block.digests().items()},
            absent=None if block.absent is None else sorted(block.absent),
        )


@dataclass(frozen=True)
class FileIndex:
    """What one file holds. `blocks` is None if nothing had to be read: every row belongs to the day in the file's path."""

    file: LogFile
    blocks: tuple[BlockIndex, ...] | None


class FileIndexStore:
    """The file indices that the lake keeps, one JSON file each. An index is valid for one reading and one stamp of its file."""

    def __init__(self, log: LogSpec, lake: Lake) -> None:
        self.folder = lake.root / "log_index" / log.dataset / log.stage
        # Lines after the last day are only counted, so a log with one more day is indexed again.
        self.reading = f"{log.fingerprint} {log.partitions.end}"

    def load(self, file: LogFile) -> FileIndex | None:
        """The index of a file, or None if there is none for its present content."""
        try:
            found = json.loads(self._path(file).read_text())
        except (FileNotFoundError, json.JSONDecodeError):
            return None
        if {key: found.get(key) for key in self._identity(file)} != self._identity(file):
            return None
        return FileIndex(file, tuple(BlockIndex(**block) for block in found["blocks"]))

    def save(self, index: FileIndex) -> None:
        """Stores the index of a file, and replaces an earlier one."""
        text = json.dumps(self._identity(index.file) | {"blocks": [asdict(block) for block in index.blocks or ()]})
        path = self._path(index.file)
        staged = path.with_name(f".{path.name}.{uuid4().hex}")  # another process can index the same file
        self.folder.mkdir(parents=True, exist_ok=True)
        staged.write_text(text)
        staged.rename(path)

    def _identity(self, file: LogFile) -> dict[str, object]:
        return {"format": _FORMAT, "reading": self.reading, "name": file.name, "stamp": file.stamp}

    def _path(self, file: LogFile) -> UPath:
        return self.folder / f"{hashlib.sha256(f'{file.url} {file.name}'.encode()).hexdigest()[:32]}.json"


def _count(days: NDArray[np.int32]) -> dict[str, int]:
    values, counts = np.unique(days, return_counts=True)
    return {str(day): int(n) for day, n in zip(values, counts, strict=True)}
