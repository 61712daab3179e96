"""The record of the files that a live join has read: `joiner/read.jsonl`, one line per batch.

Each file is read once, whatever its name. The size of a file when it was read shows later whether it has grown since.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from upath import UPath

from ml.joiner.blocks import SIDES
from ml.logs.arriving import arriving_files

_NAME = "read.jsonl"


def _empty() -> dict[str, dict[str, int]]:
    return {side: {} for side in SIDES}


@dataclass(frozen=True)
class ReadFiles:
    """The files that were read.

    Attributes:
        sizes: Bytes of each file when it was read, by side and name.
    """

    sizes: dict[str, dict[str, int]] = field(default_factory=_empty)

    @classmethod
    def load(cls, folder: UPath) -> ReadFiles:
        """Reads the record of a folder; empty if there is none. The last line of a process that was killed can be torn.

        Args:
            folder: The folder `joiner` of a stream.
        """
        found = cls()
        try:
            lines = (folder / _NAME).read_text().splitlines()
        except FileNotFoundError:
            return found
        for line in lines:
            try:
                found.add(json.loads(line))
            except json.JSONDecodeError:
                continue  # its batch is repeated, and is recorded again
        return found

    def add(self, files: Mapping[str, Sequence[tuple[str, int]]]) -> None:
        """Adds files, as (name, bytes) by side."""
        for side, of_side in files.items():
            self.sizes[side].update((name, size) for name, size in of_side)

    def unread(self, root: UPath, side: str) -> list[str]:
        """Lists the complete files of a side that were not read, in the order in which they are read."""
        names = [name for name in arriving_files(root / side) if name not in self.sizes[side]]
        return [name for name in names if (root / side / name).exists()]  # a link can lead to nothing

    def changed(self, root: UPath, side: str) -> list[str]:
        """Lists the files of a side that were read, and whose size has changed since."""
        sizes = {name: _size(root / side / name) for name in arriving_files(root / side) if name in self.sizes[side]}
        return [name for name, size in sizes.items() if size not in (None, self.sizes[side][name])]


def record(folder: UPath, files: Mapping[str, Sequence[tuple[str, int]]]) -> None:
    """Adds a line to the record. A batch that is repeated adds the same line again, which changes nothing.

    Args:
        folder: The folder `joiner` of a stream.
        files: The files of a batch, as (name, bytes) by side.
    """
    if any(files.values()):
        with (folder / _NAME).open("a") as file:
            file.write("\n" * _is_torn(folder / _NAME) + json.dumps(files) + "\n")


def _is_torn(path: UPath) -> bool:
    with path.open("rb") as file:
        end = file.seek(0, 2)
        file.seek(max(end - 1, 0))
        return file.read(1) not in (b"", b"\n")


def _size(path: UPath) -> int | None:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return None
