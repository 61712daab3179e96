"""Divides files into ranges of blocks, and packs the ranges into tasks of about equal size."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from ml.logs.sources import LogFile
from ml.logs.streams import BLOCK

# Unpacked bytes per task: enough to outweigh the cost of starting a task, and few enough to use several cores for a day.
TASK_BYTES = 16 << 20


@dataclass(frozen=True)
class BlockRange:
    """Blocks of one file for one task.

    Attributes:
        file: The file.
        file_number: Its number among the log's files.
        first: The first block.
        wanted: The blocks; None is every block from `first`.
    """

    file: LogFile
    file_number: int
    first: int = 0
    wanted: tuple[int, ...] | None = None

    @property
    def size(self) -> int:
        """Approximate number of bytes to read."""
        return len(self.wanted) * BLOCK if self.file.splittable and self.wanted is not None else self.file.size


def split_file(file: LogFile, file_number: int, wanted: Collection[int] | None = None) -> list[BlockRange]:
    """Divides a file, or its `wanted` blocks, into ranges of neighbouring blocks; one range if the file cannot be split."""
    if not file.splittable:
        return [BlockRange(file, file_number, 0, None if wanted is None else tuple(sorted(wanted)))]
    numbers = sorted(range(max(-(-file.size // BLOCK), 1)) if wanted is None else wanted)
    step = max(TASK_BYTES // BLOCK, 1)
    groups = [tuple(numbers[i : i + step]) for i in range(0, len(numbers), step)]
    return [BlockRange(file, file_number, group[0], group) for group in groups]


def pack_tasks(ranges: Sequence[BlockRange], task_bytes: int = TASK_BYTES) -> list[list[BlockRange]]:
    """Groups ranges, in their order, into tasks of about `task_bytes` bytes."""
    tasks: list[list[BlockRange]] = []
    room = 0
    for one in ranges:
        if room <= 0:
            tasks.append([])
            room = task_bytes
        tasks[-1].append(one)
        room -= one.size
    return tasks
