"""The record of the files of a stream that a follower has passed: `stream/<dataset>/passed/<follower>.txt`, a name a line.

Files are read in the order of their names, so a position alone cannot tell a file that was read from one that arrived later
under an earlier name. The record can, also if the file arrived while nothing ran.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from upath import UPath

from ml.disk import replace_text
from ml.lake import is_local


class PassedFiles:
    """The files that were begun, or reported because they came too late.

    A name is recorded before its rows are delivered. After a crash the record can therefore be ahead of the position, and the
    files after the position are read again.

    Args:
        path: File of the record, whether or not it exists; None keeps it in memory.
        default: The names that count as passed if there is no record.
    """

    def __init__(self, path: UPath | None, default: Collection[str] = ()) -> None:
        self._path = path
        if path is not None and path.exists():
            # The last line of a process that was killed can be torn.
            whole, _, torn = path.read_text(encoding="utf-8").rpartition("\n")
            self._names = set(whole.splitlines())
            if torn:
                self._write()
        else:
            self._names = set(default)
            self._write()

    def __contains__(self, name: str) -> bool:
        return name in self._names

    def add(self, name: str) -> None:
        """Record a name."""
        if name in self._names:
            return
        self._names.add(name)
        if self._path is not None and is_local(self._path):
            with self._path.open("a", encoding="utf-8") as file:
                file.write(f"{name}\n")
        else:
            self._write()

    def keep(self, names: Collection[str]) -> None:
        """Remove all names but these: those of files that were deleted."""
        if not self._names <= set(names):
            self._names.intersection_update(names)
            self._write()

    def _write(self) -> None:
        if self._path is None:
            return
        text = "".join(f"{name}\n" for name in sorted(self._names))
        if is_local(self._path):
            replace_text(Path(self._path.path), text)
        else:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._path.write_text(text, encoding="utf-8")  # an object store replaces an object as a whole
