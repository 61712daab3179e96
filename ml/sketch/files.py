"""Groups the files of a folder by the pattern of their names, and finds the group that is most likely the log."""

from __future__ import annotations

import re
import zipfile
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date
from pathlib import Path

_DATE = re.compile(r"(?<!\d)((?:19|20)\d{2})([-_./]?)(0[1-9]|1[0-2])\2(0[1-9]|[12]\d|3[01])(?!\d)")
_RANDOM = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}|\d+")
_FOLDER = r"(?:(?<=/)|^)([A-Za-z_][\w-]*)="  # a folder with a value, such as `country=de`, before the value
_VALUE = re.compile(rf"{_FOLDER}(?![^/]*%Y)[^/]*(?=/)")
_NOT_LOGS = re.compile(
    r"(?i)(^|/)(\.|_success|_metadata|__macosx|.*(readme|licen[cs]e|terms)[^/]*$)"
    r"|\.(md|pdf|html?|ya?ml|py|ipynb|png|sql|docx?)$"
)


@dataclass(frozen=True)
class FileGroup:
    """Files whose names differ in numbers, and in the values of folders such as `country=de`, only.

    Attributes:
        pattern: A glob below the folder, for `source.files`; with strftime codes if the names are dated.
        members: A glob of the members of a zip archive, for `source.members`; None if the files are no archives.
        count: Number of files, or of members.
        size: Their bytes as they are stored.
    """

    pattern: str
    members: str | None
    count: int
    size: int

    @property
    def path_columns(self) -> tuple[str, ...]:
        """Names of folders with values, such as `country=de`, that differ between files."""
        return tuple(re.findall(rf"{_FOLDER}\*(?=/)", self.pattern))

    @property
    def parquet(self) -> bool:
        """Whether the names say that the files are Parquet."""
        return self.pattern.lower().endswith((".parquet", ".pq"))


def find_groups(folder: Path) -> list[FileGroup]:
    """Group the files of a folder.

    Args:
        folder: A local folder. Hidden files and documents are left out.

    Returns:
        The groups, the one with the most bytes first.

    Raises:
        FileNotFoundError: There is no such folder, or it has no files that could be logs.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder; pass the folder that holds the files of the log")
    names = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    found: list[FileGroup] = []
    for pattern, members in _grouped(names).items():
        size = sum(names[name].stat().st_size for name in members)
        archives = [names[name] for name in members if name.lower().endswith(".zip") and zipfile.is_zipfile(names[name])]
        found += _in_archives(pattern, archives) if archives else [FileGroup(pattern, None, len(members), size)]
    if not found:
        raise FileNotFoundError(f"{folder}: holds no files that could be logs; documents and hidden files are left out")
    return sorted(found, key=lambda group: (-group.size, group.pattern))


def dated(name: str) -> str:
    """Replace a date in a path by strftime codes. Only the first date is replaced, and other text stays.

    >>> dated("logs/day=2026-03-01/part-0.parquet"), dated("clicks-20260301.csv.gz"), dated("v20261399.csv")
    ('logs/day=%Y-%m-%d/part-0.parquet', 'clicks-%Y%m%d.csv.gz', 'v20261399.csv')
    """

    def codes(match: re.Match[str]) -> str:
        try:
            date(int(match[1]), int(match[3]), int(match[4]))
        except ValueError:
            return match[0]
        return f"%Y{match[2]}%m{match[2]}%d"

    return _DATE.sub(codes, name.replace("%", "%%"), count=1)


def _grouped(names: Iterable[str]) -> dict[str, list[str]]:
    """Pattern -> names. A group of one file is named by its path; characters of a glob become `?`."""
    groups: dict[str, list[str]] = defaultdict(list)
    for name in names:
        if not _NOT_LOGS.search(name):
            # Folders with values, as Hive writes them, differ in any text.
            pattern = _VALUE.sub(r"\1=*", _RANDOM.sub("*", dated(_escaped(name))))
            groups[re.sub(r"\*+", "*", pattern)].append(name)
    return {dated(_escaped(held[0])) if len(held) == 1 else pattern: held for pattern, held in groups.items()}


def _escaped(name: str) -> str:
    return re.sub(r"[*?\[\]]", "?", name)


def _in_archives(pattern: str, archives: list[Path]) -> list[FileGroup]:
    sizes: dict[str, int] = {}
    for path in archives:
        with zipfile.ZipFile(path) as archive:
            sizes |= {info.filename: info.compress_size for info in archive.infolist() if not info.is_dir()}
    groups = _grouped(sizes).items()
    return [FileGroup(pattern, _undated(glob), len(held), sum(map(sizes.__getitem__, held))) for glob, held in groups]


def _undated(pattern: str) -> str:
    """Members have no strftime codes."""
    return re.sub(r"\*+", "*", re.sub(r"%[Ymd]", "*", pattern).replace("%%", "%"))
