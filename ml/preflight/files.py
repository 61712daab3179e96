"""Samples the files of a log, and says which files a folder has when none of them matches a pattern."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from upath import UPath

from ml.catalog.log_spec import LogSpec
from ml.logs.clock import partition_bounds
from ml.logs.sources import LogFile, NoLogs, file_day, find_files
from ml.preflight.finding import Finding
from ml.preflight.sample import Sample, read_sample
from ml.preflight.structure import check_files

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


def sample_log(log: LogSpec, folder: str | UPath, prefix: str, days_before: int = 0) -> tuple[Sample, list[Finding]]:
    """Samples a log, without dated files that differ from the others or are damaged.

    Args:
        log: The log.
        folder: The landing folder.
        prefix: Key of the log's source in the catalog entry.
        days_before: How many days before its own need a file.

    Returns:
        The sample, and the findings of the files that were left out. A run of other days does not need these files. If all
        sampled files are such, the entry is wrong, and the sample has them all.

    Raises:
        NoLogs: There is no file.
        WrongFile: A file is packed in a way that is not supported.
    """
    sample = read_sample(log.source, _of_the_log(log, find_files(log.source, folder)), log.time)
    dated = {file.name: file.day for file in sample.files if file.day is not None}
    names = list(dict.fromkeys([*sample.starts, *sample.schemas, *sample.refused, *sample.damaged]))
    found: dict[str, list[Finding]] = {}
    for name in names:
        if name in dated and (of_file := check_files(sample.of_files(name.__eq__), prefix)):
            around = range(-log.source.spill_days - days_before, log.source.spill_days + 1)
            days = tuple(str(dated[name] + timedelta(days=n)) for n in around)
            found[name] = [replace(finding, days=days) for finding in of_file]
    if len(found) == len(names):
        return sample, []
    rest = replace(sample.of_files(lambda name: name not in found), files=sample.files)
    return rest, [finding for of_file in found.values() for finding in of_file]


def _of_the_log(log: LogSpec, files: list[LogFile]) -> list[LogFile]:
    """Dated files of the log's days; all files if paths are not dated, or none is of such a day."""
    count = len(partition_bounds(log)) - 1
    inside = [file for file in files if (day := file_day(log, file)) is None or 0 <= day < count]
    return inside or files
