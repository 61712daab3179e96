"""Checks the log of actions of a dataset with two logs: its files and times, the key in both logs, and the types of actions."""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute creates its functions at import, so type checkers do not see them)

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from upath import UPath

from ml.catalog.spec import DatasetSpec
from ml.joiner.days import days_after
from ml.logs.clock import event_times, time_values
from ml.logs.quarantine import excerpt
from ml.logs.sources import NoLogs
from ml.logs.text.layout import WrongFile
from ml.preflight.files import no_files, sample_log
from ml.preflight.finding import Finding, errors, exceeds
from ml.preflight.sample import Sample
from ml.preflight.structure import check_structure
from ml.preflight.times import check_file_days, check_times
from ml.preflight.values import ENOUGH

_SHOWN = 8
PREFIX = "actions.source"


def check_actions(spec: DatasetSpec, folder: UPath, impressions: Sample | None) -> list[Finding]:
    """Checks the log of actions against its files and against the impressions.

    Args:
        spec: A dataset with `actions`.
        folder: The landing folder.
        impressions: Sample of the impressions; None if they cannot be read.
    """
    log, band = spec.actions_log, spec.expectations.quarantine_rate
    assert log is not None and spec.actions is not None
    try:
        sample, found = sample_log(log, folder, PREFIX, days_after(spec))
    except NoLogs as error:
        return [no_files(error, folder, f"{PREFIX}.files")]
    except WrongFile as error:
        return [Finding("error", f"{PREFIX}.files", str(error), "correct the files")]
    found += check_structure(sample, PREFIX, spec)
    if errors(finding for finding in found if not finding.days):
        return found
    times = check_file_days(log, sample)
    times += [] if errors(times) else check_times(log, sample, band)
    found += [_below_actions(finding) for finding in times]
    tables = {"impressions": impressions, "actions": sample}
    for side, of_side in tables.items():
        if of_side is not None:
            found += _missing_keys(spec, side, of_side.table)
    if not errors(found) and impressions is not None:
        found += _unmatched(spec, impressions, sample)
    return found + list(_types(spec, sample))


def _below_actions(finding: Finding) -> Finding:
    """Returns a finding of the times with its key, and the keys in its text, below `actions`."""
    key = finding.key if finding.key.startswith("partitions") else f"actions.{finding.key}"
    change = finding.change.replace("source.files", f"{PREFIX}.files").replace("time.", "actions.time.")
    return replace(finding, key=key, found=f"the actions: {finding.found}", change=change)


def _missing_keys(spec: DatasetSpec, side: str, table: pa.Table) -> Iterator[Finding]:
    """Columns of the key that have no value in rows of one of the logs."""
    assert spec.actions is not None
    for number, column in enumerate(spec.actions.key):
        missing, rows = table[column].null_count, table.num_rows
        if rows and (missing == rows or exceeds(missing, rows, spec.expectations.quarantine_rate)):
            severity = "error" if missing == rows else "warning"
            found = f"{missing:,} of {rows:,} sampled values of {column!r} in the {side} are missing"
            change = f"set actions.key to columns that both logs have, or rename a column of the {side} to {column!r}"
            yield Finding(severity, f"actions.key.{number}", found, change)


def _unmatched(spec: DatasetSpec, impressions: Sample, actions: Sample) -> list[Finding]:
    """Actions whose keys no impression has. Only whole logs say so; pieces of two large logs need not have common keys."""
    assert spec.actions is not None
    key = list(spec.actions.key)
    shown, done = (sample.table.select(key).drop_null() for sample in (impressions, actions))
    if not (impressions.complete and actions.complete) or len(done) < ENOUGH or not _overlap(spec, impressions, actions):
        return []
    if len(done.join(shown.group_by(key).aggregate([]), key, join_type="left semi")):
        return []
    found = "; ".join(
        f"{name!r} is {_some(shown[name])} in the impressions and {_some(done[name])} in the actions" for name in key
    )
    return [
        Finding("error", "actions.key", f"no action has the key of an impression: {found}", "correct actions.key or the logs")
    ]


def _overlap(spec: DatasetSpec, impressions: Sample, actions: Sample) -> bool:
    """Whether both logs have events in a common span of time. One of them can have landed further than the other."""
    assert spec.actions_log is not None
    ranges = []
    for log, sample in ((spec.log, impressions), (spec.actions_log, actions)):
        times, known = event_times(time_values(sample.table, log.time), log.time)
        if not known.any():
            return False
        ranges.append((times[known].min(), times[known].max()))
    return bool(max(low for low, _ in ranges) <= min(high for _, high in ranges))


def _some(values: pa.ChunkedArray) -> str:
    return ", ".join(map(excerpt, values.unique().slice(0, 2).to_pylist()))


def _types(spec: DatasetSpec, sample: Sample) -> Iterator[Finding]:
    """Labels that list no type that the actions have."""
    rules, table = spec.actions, sample.table
    assert rules is not None
    if rules.type is None or table.num_rows < ENOUGH:
        return
    types = pc.cast(table[rules.type], pa.string()).drop_null()
    counts = {row["values"]: row["counts"] for row in pc.value_counts(types).to_pylist()}
    most = sorted(counts, key=lambda name: -counts[name])[:_SHOWN]
    unused = [name for name, label in rules.labels.items() if not np.isin(list(counts), label.types).any()]
    for name in unused:
        found = f"no sampled action has a type of {name!r}; the values of {rules.type!r} are {', '.join(map(excerpt, most))}"
        severity = "error" if len(unused) == len(rules.labels) else "warning"
        yield Finding(severity, f"actions.labels.{name}.types", found, "list types that the actions have")
