"""The files of side tables: whether they are whole, and whether a day was joined with them as they are now.

`ml.features.side_join` joins the tables.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from upath import UPath
from xxhash import xxh3_128

from ml.catalog.spec import DatasetSpec
from ml.lake import Lake
from ml.logs.quarantine import Quarantine, damaged_file
from ml.logs.sources import LogFile, NoLogs, find_files
from ml.stages import CLEANED_FEATURES

PIECE = 1 << 20


class DamagedSideTable(ValueError):
    """A file of a side table is truncated or corrupt, so an unknown number of its rows is lost."""


def check_whole(quarantine: Quarantine) -> None:
    """Raises `DamagedSideTable` if the unreadable lines of a side table include a truncated or corrupt rest of a file."""
    for entry in quarantine.table.to_pylist():
        if entry["reason"].startswith(damaged_file("")):
            raise DamagedSideTable(
                f"{entry['file']}: {entry['reason']}, at line {entry['line']}; the rows after it are lost. "
                f"Copy the file again, then run the day again"
            )


def side_files(spec: DatasetSpec, logs: str | UPath) -> dict[str, Any]:
    """Describes the files of all side tables, for the manifest of a day that is joined with them.

    Returns:
        `stamps`: name and stamp of each file; `digest`: hash of their contents. Empty for a dataset without side tables.

    Raises:
        NoLogs: A side table has no file.
    """
    if not spec.join:
        return {}
    files = [file for side in spec.join for file in find_files(side.source, logs)]
    return {"stamps": _stamps(files), "digest": _digest(files)}


def joined_with_current_files(spec: DatasetSpec, day: str, lake: Lake, logs: str | UPath) -> bool:
    """Whether the features of a day were joined with the side tables as they are now. True for a dataset without side tables.

    Args:
        spec: The dataset.
        day: The partition key; its features are in the lake.
        lake: Where the features are.
        logs: The landing folder, which holds the side tables.
    """
    if not spec.join:
        return True
    found = lake.manifest(CLEANED_FEATURES, spec.name, day).get("side_files") or {}
    try:
        files = [file for side in spec.join for file in find_files(side.source, logs)]
    except NoLogs:
        return False
    # Files are read only if their stamps differ, because a copy of the same content has another stamp.
    return found.get("stamps") == _stamps(files) or found.get("digest") == _digest(files)


def _stamps(files: list[LogFile]) -> list[str]:
    return [f"{file.name} {file.stamp}" for file in files]


def _digest(files: list[LogFile]) -> str:
    whole = xxh3_128()
    for file in files:
        # The stamp of a member of an archive is a checksum of its content.
        whole.update(f"{file.name} {file.stamp if file.member else _content(file.url, file.stamp)}\n".encode())
    return whole.hexdigest()


@lru_cache(maxsize=256)
def _content(url: str, stamp: str) -> str:
    """Returns the hash of a file. `stamp` differs between versions of the file, so each version is read once."""
    found = xxh3_128()
    with UPath(url).open("rb") as file:
        while piece := file.read(PIECE):
            found.update(piece)
    return found.hexdigest()
