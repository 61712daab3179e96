"""The preflight of a catalog entry: one function that demo, replay, the sensor and every launched run call first."""

from __future__ import annotations

from os import PathLike

from upath import UPath

from ml.catalog.spec import DatasetSpec
from ml.logs.clock import partition_bounds
from ml.logs.sources import LogFile, NoLogs, file_day, find_files
from ml.logs.text.layout import WrongFile
from ml.preflight.files import no_files
from ml.preflight.finding import Finding, errors
from ml.preflight.joins import check_join
from ml.preflight.sample import read_sample
from ml.preflight.structure import check_structure
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
        What does not fit, in the order of the entry. Empty for a simulated log that has not been written yet.
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
    found = check_structure(sample, "source", spec)
    if errors(found):
        return found
    found += check_file_days(log, sample)
    table = sample.table
    if not errors(found):
        found += check_times(log, sample, band)
    found += check_label(spec, table)
    found += check_columns(spec, sample)
    for number in range(len(spec.join)):
        found += check_join(spec, number, table, root)
    return found


def _of_the_log(spec: DatasetSpec, files: list[LogFile]) -> list[LogFile]:
    """Dated files of the log's days; all files if paths are not dated, or none is of such a day."""
    count = len(partition_bounds(spec.log)) - 1
    inside = [file for file in files if (day := file_day(spec.log, file)) is None or 0 <= day < count]
    return inside or files
