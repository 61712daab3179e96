"""Checks side tables against the log: whether they can be read, and how many of the log's keys they have."""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions at import, out of a type checker's sight)

from __future__ import annotations

import re

import pyarrow as pa
import pyarrow.compute as pc
from upath import UPath

from ml.catalog.spec import DatasetSpec, SideTable
from ml.features.side_files import DamagedSideTable, check_whole
from ml.features.side_join import RepeatedKey, prepare
from ml.logs.packed import suffix_of
from ml.logs.quarantine import excerpt
from ml.logs.source_table import read_table
from ml.logs.sources import LogFile, NoLogs, find_files
from ml.logs.text.layout import WrongFile
from ml.preflight.files import no_files
from ml.preflight.finding import Finding, errors
from ml.preflight.sample import Sample, read_sample
from ml.preflight.structure import check_structure
from ml.preflight.values import ENOUGH, check_columns

READ_BYTES = 32 << 20  # larger side tables are sampled and not looked up in
PACKED = 6  # a packed file unpacks to about this many times its size
USUAL = 0.5  # a join that matches fewer rows is worth a warning


def check_join(spec: DatasetSpec, number: int, log: pa.Table, folder: str | UPath) -> list[Finding]:
    """Checks one side table.

    Args:
        spec: The dataset.
        number: Position of the side table in `join`.
        log: Sampled rows of the log.
        folder: The landing folder.
    """
    side, prefix = spec.join[number], f"join.{number}"
    try:
        files = find_files(side.source, folder)
    except NoLogs as error:
        return [no_files(error, folder, f"{prefix}.source.files")]
    except WrongFile as error:
        return [Finding("error", f"{prefix}.source.files", str(error), "correct the files of the side table")]
    sample = read_sample(side.source, files)
    found = check_structure(sample, f"{prefix}.source", spec)
    if errors(found):
        return found
    found += check_columns(spec, sample, f"{prefix}.source", {*side.columns, side.table_key})
    if sum(map(_bytes, files)) > READ_BYTES:
        return found
    try:
        table, quarantine = read_table(side.source, folder)
        check_whole(quarantine)
        rows = prepare(side, table, spec.column_types[side.log_key])
    except RepeatedKey as error:
        return [*found, Finding("error", f"{prefix}.table_key", str(error), "use a column that identifies a row of the table")]
    except DamagedSideTable as error:
        what, _, change = str(error).partition(". ")
        return [*found, Finding("error", f"{prefix}.source.files", what, change)]
    except (WrongFile, TypeError) as error:
        return [*found, Finding("error", f"{prefix}.source", str(error), "correct the side table")]
    return found + _matches(spec, number, log, sample, rows[side.table_key])


def _bytes(file: LogFile) -> int:
    return file.size * (PACKED if suffix_of(file.name) else 1)


def _matches(spec: DatasetSpec, number: int, log: pa.Table, sample: Sample, keys: pa.ChunkedArray) -> list[Finding]:
    side, prefix = spec.join[number], f"join.{number}"
    values = log[side.log_key].drop_null()
    if len(values) < ENOUGH:
        return []
    rate = _rate(values, keys)
    others = {
        name: _rate(log[name].drop_null(), keys)
        for name, kind in spec.source.columns.items()
        if name != side.log_key and kind == side.source.columns[side.table_key] and log[name].null_count < log.num_rows
    }
    if rate < USUAL:
        band = spec.expectations.join_match
        severity = band.severity if band.min is not None and rate < band.min else "warning"
        mine, theirs = (", ".join(excerpt(v) for v in of.unique().slice(0, 3).to_pylist()) for of in (values, keys))
        found = f"{rate:.1%} of the sampled rows match a row of {side.source.files} on {side.log_key} = {side.table_key}"
        what = f"{found}; the log has {mine}, the table {theirs}"
        return [Finding(severity, _key(spec, side, prefix, log, sample, others), what, _change(side, log, sample, others))]
    named = [
        name for name, other in others.items() if other >= rate and _related(name, side) and not _related(side.log_key, side)
    ]
    if named:
        found = f"the rows of {side.source.files} also match on {named[0]!r}, and its name resembles {side.table_key!r}"
        return [Finding("warning", f"{prefix}.log_key", found, f"set `log_key: {named[0]}`")]
    return []


def _rate(values: pa.ChunkedArray, keys: pa.ChunkedArray) -> float:
    return pc.mean(pc.cast(pc.is_in(values, keys.combine_chunks()), pa.float64())).as_py() or 0.0


def _better_column(side: SideTable, log: pa.Table, sample: Sample) -> str | None:
    """Another column of the side table whose values the log's keys are."""
    values, table = log[side.log_key].drop_null(), sample.table
    for name in table.column_names:
        if name != side.table_key and table[name].type == values.type and table[name].null_count < table.num_rows:
            found = table[name].drop_null()
            if len(found.unique()) == len(found) and _rate(found, values.unique()) + _rate(values, found) > 1:
                return name
    return None


def _key(spec: DatasetSpec, side: SideTable, prefix: str, log: pa.Table, sample: Sample, others: dict[str, float]) -> str:
    if max(others.values(), default=0.0) > USUAL or not _better_column(side, log, sample):
        return f"{prefix}.log_key"
    return f"{prefix}.table_key"


def _change(side: SideTable, log: pa.Table, sample: Sample, others: dict[str, float]) -> str:
    best = max(others, key=lambda name: others[name], default=None)
    if best is not None and others[best] > USUAL:
        return f"set `log_key: {best}`, which {others[best]:.0%} of the rows match by"
    if better := _better_column(side, log, sample):
        return f"set `table_key: {better}`"
    return "correct log_key, table_key or the keys in the table"


def _related(name: str, side: SideTable) -> bool:
    """Whether a column's name shares a word with the table's key or its file."""
    return bool(_words(name) & (_words(side.table_key) | _words(side.source.files)))


def _words(name: str) -> set[str]:
    words = re.findall(r"[a-z]+", re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower())
    return {word.removesuffix("s") for word in words if len(word) > 2} - {
        "key",
        "csv",
        "tsv",
        "jsonl",
        "parquet",
        "data",
        "the",
    }
