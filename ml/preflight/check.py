"""The preflight of a catalog entry: one function that demo, replay, the sensor and every launched run call first."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from os import PathLike

from upath import UPath

from ml.catalog.spec import DatasetSpec
from ml.logs.clock import partition_bounds
from ml.logs.sources import LogFile, NoLogs, file_day, find_files
from ml.logs.text.layout import WrongFile
from ml.preflight.files import no_files
from ml.preflight.finding import Finding, errors
from ml.preflight.joins import check_join
from ml.preflight.sample import Sample, read_sample
from ml.preflight.structure import check_files, check_structure
from ml.preflight.times import check_file_days, check_times
from ml.preflight.values import check_columns, check_label


def preflight(spec: DatasetSpec, folder: str | PathLike[str]) -> list[Finding]:
    """Checks a catalog entry against its files.

    Only a sample is read: the headers of up to 48 files, and up to 15,000 rows from the start, the middle and the end of 5
    of them. Side tables are read whole up to 32 MB.

    Args:
        spec: The dataset.
        folder: Its landing folder, local or any fsspec URL.

    Returns:
        What does not fit. Empty for a simulated log that has not been written yet. `of_days` makes warnings of the errors of
        files that the days of a run do not need.
    """
    root = UPath(folder)
    log, band = spec.log, spec.expectations.quarantine_rate
    try:
        files = find_files(log.source, root)
    except NoLogs as error:
        return [] if spec.simulation else [no_files(error, root, "source.files")]
    except WrongFile as error:
        return [Finding("error", "source.files", str(error), "correct the files")]
    sample = read_sample(log.source, _of_the_log(spec, files), log.time)
    found, sample = _apart(spec, sample)
    found += check_structure(sample, "source", spec)
    if errors(finding for finding in found if not finding.days):
        return found
    found += check_file_days(log, sample)
    table = sample.table
    if not errors(finding for finding in found if not finding.days):
        found += check_times(log, sample, band)
    found += check_label(spec, table)
    found += check_columns(spec, sample)
    for number in range(len(spec.join)):
        found += check_join(spec, number, table, root)
    return found


def _apart(spec: DatasetSpec, sample: Sample) -> tuple[list[Finding], Sample]:
    """Findings of dated files that differ from the others or are damaged, and the sample without their content.

    A run of other days does not need these files. If all sampled files are such, the entry is wrong, and the sample is left
    as it is.
    """
    log, dated = spec.log, {file.name: file.day for file in sample.files if file.day is not None}
    names = list(dict.fromkeys([*sample.starts, *sample.schemas, *sample.refused, *sample.damaged]))
    found: dict[str, list[Finding]] = {}
    for name in names:
        if name in dated and (of_file := check_files(sample.of_files(name.__eq__), "source")):
            around = range(-log.source.spill_days, log.source.spill_days + 1)
            days = tuple(str(dated[name] + timedelta(days=n)) for n in around)
            found[name] = [replace(finding, days=days) for finding in of_file]
    if len(found) == len(names):
        return [], sample
    rest = replace(sample.of_files(lambda name: name not in found), files=sample.files)
    return [finding for of_file in found.values() for finding in of_file], rest


def _of_the_log(spec: DatasetSpec, files: list[LogFile]) -> list[LogFile]:
    """Dated files of the log's days; all files if paths are not dated, or none is of such a day."""
    count = len(partition_bounds(spec.log)) - 1
    inside = [file for file in files if (day := file_day(spec.log, file)) is None or 0 <= day < count]
    return inside or files
