"""Finds the files of a log: globs in the landing folder, members of zip archives, stamps, and days named by paths.

`ml.logs.streams` opens the files, `ml.logs.formats` reads them.
"""

from __future__ import annotations

import fnmatch
import re
import time
import zipfile
from dataclasses import dataclass
from datetime import date, datetime

from upath import UPath

from ml.catalog.log_spec import LogSpec
from ml.catalog.reading import Source
from ml.logs.packed import UNPACKERS, suffix_of
from ml.logs.text.layout import WrongFile

CLOCK_RESOLUTION = 2_000_000_000
"""Nanoseconds between two modification times of the coarsest file system, FAT."""


class NoLogs(FileNotFoundError):
    """There are no log files where the catalog entry looks for them."""


@dataclass(frozen=True)
class LogFile:
    """One plain or compressed file, or one member of a zip archive.

    Attributes:
        url: Any URL that fsspec opens; credentials come from fsspec's own configuration.
        member: Name within the archive, for a member.
        size: Bytes; unpacked bytes for a member.
        stamp: Changes with the content: the CRC of a member, or the entity tag or modification time of a file, with the size.
        day: The day that a dated path names.
        name: Path below the landing folder; `archive.zip!member` for a member.
        lines: Whether the file holds lines, whatever its name; False for Parquet.
        multiline: The field separator, if quoted fields can contain line ends.
    """

    url: str
    member: str | None
    size: int
    stamp: str
    day: date | None
    name: str
    lines: bool = True
    multiline: str | None = None

    @property
    def splittable(self) -> bool:
        """Whether a reader can start in the middle: the file is neither packed nor columnar, and each line is a row."""
        whole = self.member is not None or self.multiline is not None or not self.lines
        return not whole and not (suffix_of(self.name) or self.name.lower().endswith(".zip"))

    @property
    def is_settled(self) -> bool:
        """Whether any change of the file from now on changes its stamp.

        A checksum or an entity tag always does. A modification time does not within the resolution of the file system's clock,
        and times of remote files are not known to be finer than a second.
        """
        kind, _, value = self.stamp.partition(":")
        if kind == "mtime" and (nanoseconds := value.partition(":")[0]).isdigit():
            return time.time_ns() - int(nanoseconds) > CLOCK_RESOLUTION
        return kind in ("crc", "etag", "md5hash", "checksum")


def find_files(source: Source, folder: str | UPath) -> list[LogFile]:
    """Finds the files of a source.

    Args:
        source: Patterns of paths and of archive members.
        folder: The landing folder, local or any fsspec URL.

    Returns:
        Files ordered by day, if paths are dated, then by name.

    Raises:
        NoLogs: The folder is missing, or nothing in it matches the pattern.
        WrongFile: A Parquet file is packed in another file.
    """
    root = UPath(folder)
    root = root.absolute() if root.protocol in ("", "file") else root  # a task can run in another working folder
    way_out = "pass the folder of the logs, as in: make demo DATASET=<name> LOGS=<folder>"
    if not root.exists():
        raise NoLogs(f"{root}: no such folder (expected one with files {source.files!r}); {way_out}")
    if not root.is_dir():
        raise NoLogs(f"{root}: a file, not a folder (expected one with files {source.files!r}); {way_out}")
    dated = _dated_pattern(source.files) if source.dated else None
    found: list[LogFile] = []
    for path in sorted(set(root.glob(_glob(source.files))), key=str):
        name = _below(path, root)
        if not path.is_file():
            continue
        day = _day(dated, source.files, name) if dated else None
        if dated is None or day is not None:
            found += _members(source, path, name, day) if name.lower().endswith(".zip") else [_plain(source, path, name, day)]
    if not found:
        members = f" with members {source.members!r}" if ".zip" in source.files.lower() else ""
        raise NoLogs(f"{root}: no file here matches {source.files!r}{members}; {way_out}")
    return sorted(found, key=lambda file: (file.day or date.min, file.name))


def stamps_of(source: Source, folder: str | UPath) -> tuple[str, ...]:
    """Returns the name and stamp of every file of a source; empty if there is none."""
    try:
        return tuple(f"{file.name} {file.stamp}" for file in find_files(source, folder))
    except (NoLogs, WrongFile):
        return ()


def file_day(log: LogSpec, file: LogFile) -> int | None:
    """Index of a dated file's day: below 0 or beyond the last if it is outside the log's days, None without a dated path."""
    return None if file.day is None else (file.day - log.partitions.start).days


# Packed files that would be taken for text. (`.tar.gz` is an archive within a packed file.)
_NOT_UNPACKED = (".lzma", ".br", ".snappy", ".z", ".7z", ".rar", ".tar", ".tgz", *(f".tar{suffix}" for suffix in UNPACKERS))


def _plain(source: Source, path: UPath, name: str, day: date | None) -> LogFile:
    if packed := [suffix for suffix in _NOT_UNPACKED if name.lower().endswith(suffix)]:
        raise WrongFile(
            f"{name}: {packed[-1]} files are not supported, only plain files, {', '.join(UNPACKERS)} and .zip; "
            f"pack the file again, or exclude it by source.files"
        )
    if source.format == "parquet" and suffix_of(name):
        raise WrongFile(f"{name}: Parquet inside a packed file is not supported; unpack the file in the landing folder")
    size, stamp = stamp_of(path)
    return LogFile(str(path), None, size, stamp, day, name, source.format != "parquet", _multiline(source))


def _multiline(source: Source) -> str | None:
    return source.delimiter if source.multiline else None


def _members(source: Source, path: UPath, name: str, day: date | None) -> list[LogFile]:
    if source.format == "parquet":
        raise WrongFile(f"{name}: Parquet inside an archive is not supported; unpack the archive in the landing folder")
    try:
        with path.open("rb") as file, zipfile.ZipFile(file) as archive:
            # If a name occurs twice, the last member is used, as unpacking does.
            named = {i.filename: i for i in archive.infolist()}.values()
            infos = [i for i in named if not i.is_dir() and _is_member(i.filename, source.members)]
    except zipfile.BadZipFile:
        return [_plain(source, path, name, day)]  # opening it as a stream fails with the reason, which goes to quarantine
    stamps = {i.filename: f"crc:{i.CRC:08x}:{i.file_size}" for i in infos}
    return [
        LogFile(
            str(path), i.filename, i.file_size, stamps[i.filename], day, f"{name}!{i.filename}", multiline=_multiline(source)
        )
        for i in infos
    ]


def _is_member(name: str, pattern: str) -> bool:
    """Returns whether a member belongs to the log. Metadata that macOS adds to archives does not."""
    return fnmatch.fnmatchcase(name, pattern) and not name.startswith("__MACOSX/")


def stamp_of(path: UPath) -> tuple[int, str]:
    """Size in bytes, and a stamp that changes with the content."""
    if path.protocol in ("", "file", "local"):
        status = path.stat()
        return status.st_size, f"mtime:{status.st_mtime_ns}:{status.st_size}"
    info = path.fs.info(path.path)
    size = int(info.get("size") or 0)
    for key in ("ETag", "etag", "md5Hash", "checksum", "LastModified", "last_modified", "mtime", "created"):
        if info.get(key) is not None:
            return size, f"{key.lower()}:{info[key]}:{size}"
    return size, f"size:{size}"


def _below(path: UPath, root: UPath) -> str:
    return path.path.removeprefix(root.path).lstrip("/")


_CODES = {"%Y": r"\d{4}", "%m": r"\d{2}", "%d": r"\d{2}", "%H": r"\d{2}", "%M": r"\d{2}", "%S": r"\d{2}", "%j": r"\d{3}"}
_CODES |= {"%y": r"\d{2}", "%b": r"[^\W\d]+", "%B": r"[^\W\d]+", "%%": "%"}


def _glob(files: str) -> str:
    """Glob of the paths. Codes become `*`; several in a row, as in `%Y%m%d`, become one, because `**` means folders."""
    parts = files.split("/")
    globs = (re.sub(r"%(.)", lambda m: "%" if m[1] == "%" else "*", part) for part in parts)
    return "/".join(part if part == "**" else re.sub(r"\*+", "*", glob) for part, glob in zip(parts, globs, strict=True))


def _dated_pattern(files: str) -> re.Pattern[str]:
    """Pattern of the paths, with one group for each strftime code."""
    pattern = ""
    for piece in re.split(r"(%.|\*\*/|\*|\?|\[!?[^]/]+\])", files):
        if piece.startswith("%") and len(piece) == 2:
            if piece not in _CODES:
                raise ValueError(f"source.files {files!r}: code {piece} is not supported; use some of {sorted(_CODES)}")
            pattern += piece[1:] if piece == "%%" else f"({_CODES[piece]})"
        elif piece.startswith("[") and piece.endswith("]"):
            pattern += piece.replace("\\", r"\\").replace("[!", "[^", 1)
        else:
            pattern += {"**/": "(?:.*/)?", "*": "[^/]*", "?": "[^/]"}.get(piece, re.escape(piece))
    return re.compile(pattern)


def _day(pattern: re.Pattern[str], files: str, name: str) -> date | None:
    """The day that a path names; None if there is no such day (`2026-02-31.csv`)."""
    match = pattern.fullmatch(name)
    if match is None:
        return None
    codes = [code for code in re.findall(r"%.", files) if code != "%%"]
    named: dict[str, str] = {}
    for code, text in zip(codes, match.groups(), strict=True):
        if named.setdefault(code, text) != text:  # `%Y/%m/%Y-%m-%d.csv`: both must agree
            return None
    try:
        return datetime.strptime(" ".join(named.values()), " ".join(named)).date()
    except ValueError:
        return None
