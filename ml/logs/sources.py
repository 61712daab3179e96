"""Which files a log is made of: globbing the landing folder, members of zip archives, stamps, days named by paths.

Opening them is `ml.logs.streams`; what is in them is `ml.logs.text.parse`.
"""

from __future__ import annotations

import fnmatch
import re
import zipfile
from dataclasses import dataclass
from datetime import date, datetime

from upath import UPath

from ml.catalog.reading import Source
from ml.logs.text.layout import WrongFile


class NoLogs(FileNotFoundError):
    """No log files where the catalog says they lie."""


@dataclass(frozen=True)
class LogFile:
    """One plain or compressed file, or one member of a zip archive.

    url: any that fsspec opens (credentials come from fsspec's own configuration). name: the path below the landing folder,
    `archive.zip!member` for a member. size: bytes, unpacked for a member. stamp: changes when the content does (CRC of a
    member, entity tag or modification time of a file, with its size). day: from a dated path. lines: whether it is made of
    lines, whatever it is called.
    """

    url: str
    member: str | None
    size: int
    stamp: str
    day: date | None
    name: str
    lines: bool = True

    @property
    def splittable(self) -> bool:
        """Whether a reader may start in the middle: neither packed nor columnar."""
        return self.lines and self.member is None and not self.name.lower().endswith((".gz", ".zst", ".zip"))


def find_files(source: Source, folder: str | UPath) -> list[LogFile]:
    """The files of a source, ordered by day (where paths are dated), then by name.

    Raises `NoLogs`, naming folder and pattern, where the folder is missing or nothing in it matches.
    """
    root = UPath(folder)
    root = root.absolute() if root.protocol in ("", "file") else root  # a task may run in another working folder
    way_out = "give the folder of the logs, as in: make demo DATASET=<name> LOGS=<folder>"
    if not root.exists():
        raise NoLogs(f"{root}: no such folder (it should hold {source.files!r}); {way_out}")
    if not root.is_dir():
        raise NoLogs(f"{root}: a file, not a folder (it should hold {source.files!r}); {way_out}")
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
        raise NoLogs(f"{root}: nothing here matches {source.files!r}{members}; {way_out}")
    return sorted(found, key=lambda file: (file.day or date.min, file.name))


def _plain(source: Source, path: UPath, name: str, day: date | None) -> LogFile:
    if source.format == "parquet" and name.lower().endswith((".gz", ".zst")):
        raise WrongFile(f"{name}: Parquet is packed within, and is not read out of a packed file; unpack it")
    size, stamp = stamp_of(path)
    return LogFile(str(path), None, size, stamp, day, name, source.format != "parquet")


def _members(source: Source, path: UPath, name: str, day: date | None) -> list[LogFile]:
    if source.format == "parquet":
        raise WrongFile(f"{name}: Parquet is packed within, and is not read out of an archive; unpack it")
    try:
        with path.open("rb") as file, zipfile.ZipFile(file) as archive:
            # Of a name that is there twice, the last counts, as for whoever unpacks it.
            named = {i.filename: i for i in archive.infolist()}.values()
            infos = [i for i in named if not i.is_dir() and _is_member(i.filename, source.members)]
    except zipfile.BadZipFile:
        return [_plain(source, path, name, day)]  # opening it as a stream says what is wrong, and it goes to quarantine
    stamps = {i.filename: f"crc:{i.CRC:08x}:{i.file_size}" for i in infos}
    return [LogFile(str(path), i.filename, i.file_size, stamps[i.filename], day, f"{name}!{i.filename}") for i in infos]


def _is_member(name: str, pattern: str) -> bool:
    """Whether a member is of the log; what macOS keeps beside a file in an archive never is."""
    return fnmatch.fnmatchcase(name, pattern) and not name.startswith("__MACOSX/")


def stamp_of(path: UPath) -> tuple[int, str]:
    """Size in bytes, and what changes when the content does."""
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
    return re.sub(r"%(.)", lambda m: "%" if m[1] == "%" else "*", files)


def _dated_pattern(files: str) -> re.Pattern[str]:
    """Groups: one for each run of text that strftime codes and what joins them describe."""
    pattern = ""
    for piece in re.split(r"(%.|\*\*/|\*|\?)", files):
        if piece.startswith("%") and len(piece) == 2:
            if piece not in _CODES:
                raise ValueError(f"source.files {files!r}: {piece} is not among {sorted(_CODES)}")
            pattern += piece[1:] if piece == "%%" else f"({_CODES[piece]})"
        else:
            pattern += {"**/": "(?:.*/)?", "*": "[^/]*", "?": "[^/]"}.get(piece, re.escape(piece))
    return re.compile(pattern)


def _day(pattern: re.Pattern[str], files: str, name: str) -> date | None:
    """The day that a path names; None where it names none (`2026-02-31.csv`)."""
    match = pattern.fullmatch(name)
    if match is None:
        return None
    codes = [code for code in re.findall(r"%.", files) if code != "%%"]
    named: dict[str, str] = {}
    for code, text in zip(codes, match.groups(), strict=True):
        if named.setdefault(code, text) != text:  # `%Y/%m/%Y-%m-%d.csv`: both mentions must agree
            return None
    try:
        return datetime.strptime(" ".join(named.values()), " ".join(named)).date()
    except ValueError:
        return None
