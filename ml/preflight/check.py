"""The preflight of a catalog entry: one function that demo, replay, the sensor and every launched run call first."""

from __future__ import annotations

from os import PathLike

from upath import UPath

from ml.catalog.spec import DatasetSpec
from ml.logs.sources import NoLogs
from ml.logs.text.layout import WrongFile
from ml.preflight.actions import check_actions
from ml.preflight.files import no_files, sample_log
from ml.preflight.finding import Finding, errors
from ml.preflight.joins import check_join
from ml.preflight.sample import Sample
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
        What does not fit. Empty for a simulated log that has not been written yet. `of_days` makes warnings of the errors of
        files that the days of a run do not need.
    """
    root = UPath(folder)
    found, sample = _check_log(spec, root)
    return found + (check_actions(spec, root, sample) if spec.actions else [])


def _check_log(spec: DatasetSpec, root: UPath) -> tuple[list[Finding], Sample | None]:
    """Checks the entry without `actions`. Also returns the sample of the log, if it can be read."""
    log, band = spec.log, spec.expectations.quarantine_rate
    try:
        sample, found = sample_log(log, root, "source")
    except NoLogs as error:
        return [] if spec.simulation else [no_files(error, root, "source.files")], None
    except WrongFile as error:
        return [Finding("error", "source.files", str(error), "correct the files")], None
    found += check_structure(sample, "source", spec)
    if errors(finding for finding in found if not finding.days):
        return found, None
    found += check_file_days(log, sample)
    table = sample.table
    if not errors(finding for finding in found if not finding.days):
        found += check_times(log, sample, band)
    found += check_label(spec, table)
    found += check_columns(spec, sample)
    for number in range(len(spec.join)):
        found += check_join(spec, number, table, root)
    return found, sample
