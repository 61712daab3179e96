"""Says which files a folder has when none of them matches a pattern."""

from __future__ import annotations

from upath import UPath

from ml.logs.sources import NoLogs
from ml.preflight.finding import Finding

LISTED = 5


def no_files(error: NoLogs, folder: str | UPath, key: str) -> Finding:
    """Returns the finding for a pattern that nothing matches.

    Args:
        error: Names the pattern and the folder.
        folder: The landing folder, some of whose files are named.
        key: Key of the pattern in the catalog entry.
    """
    root, names = UPath(folder), []
    if root.is_dir():
        for path in root.rglob("*"):
            if path.is_file():
                names.append(path.path.removeprefix(root.path).lstrip("/"))
            if len(names) > LISTED:
                break
    there = f"; the folder has {', '.join(sorted(names)[:LISTED])}{', ...' if len(names) > LISTED else ''}" if names else ""
    return Finding("error", key, f"{str(error).split(';')[0]}{there}", f"correct {key}, or pass the folder of the logs as LOGS")
