"""Measures that expectations check: each computes a value per subject (a column, a split or the day) from profiles.

For a measure that compares days, None means that there is nothing to compare with. For any other measure, it means that the
measured data does not exist.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median

from ml.catalog.spec import DatasetSpec
from ml.features.column_profile import ColumnProfile
from ml.logs.quarantine import damaged_file
from ml.quality.drift import population_stability_index
from ml.quality.noise import Ratio, Share
from ml.quality.profile import Profile
from ml.schema import ARROW_TYPES, arrow_schema
from ml.stages import CLEANED_FEATURES, RAW_LOGS

DAY = "day"
RANGES = ("range", "joined_range")  # measures with two subjects per column, its smallest and its largest value


@dataclass(frozen=True)
class Pair:
    """A value and the value that it should equal, as text."""

    found: str
    expected: str


Value = float | Pair | None


@dataclass(frozen=True)
class Evidence:
    """The input of a measure.

    Args:
        spec: The dataset.
        stage: The stage.
        today: Profile of the day.
        recent: Profiles of recent days, by day.
        features: Profile of the day's features; only for MDS data.
    """

    spec: DatasetSpec
    stage: str
    today: Profile
    recent: Mapping[str, Profile]
    features: Profile | None = None


Measure = Callable[[Evidence], Mapping[str, Value]]
Columns = Callable[[Profile], Mapping[str, ColumnProfile]]


def measure(evidence: Evidence, name: str, columns: tuple[str, ...] = ()) -> dict[str, Value]:
    """Computes a measure.

    Args:
        evidence: Profiles to compute it from.
        name: A key of `MEASURES`.
        columns: Columns to measure; all by default.

    Returns:
        Values by subject. With `columns`, one subject per column (two for a range), None for a column that is missing.
    """
    found = dict(MEASURES[name](evidence))
    if not columns:
        return found
    wanted = [f"{c} {end}" for c in columns for end in ("min", "max")] if name in RANGES else list(columns)
    return {subject: found.get(subject) for subject in wanted}


def _share(count: str) -> Measure:
    def share(evidence: Evidence) -> Mapping[str, Value]:
        today = evidence.today
        return {DAY: Share(getattr(today, count), today.rows)}

    return share


def _volume(evidence: Evidence) -> Mapping[str, Value]:
    usual = median(p.rows for p in evidence.recent.values()) if evidence.recent else 0
    if not usual and evidence.today.rows:
        return {DAY: None}
    return {DAY: Ratio(evidence.today.rows, usual)}


def _quarantine_rate(evidence: Evidence) -> Mapping[str, Value]:
    quarantined = evidence.today.manifest.get("quarantined")
    if quarantined is None:
        return {DAY: None}
    return {DAY: Share(quarantined, quarantined + evidence.today.rows)}


def _join_match(evidence: Evidence) -> Mapping[str, Value]:
    """Share of the rows with a key that each side table has a match for. Tables for which no row has a key are left out."""
    joins = evidence.today.manifest.get("joins", {})
    return {name: Share(join["matched"], join["keyed"]) for name, join in joins.items() if join.get("keyed")}


def _damaged_files(evidence: Evidence) -> Mapping[str, Value]:
    """Number of the day's files that could not be read to the end."""
    reasons = evidence.today.manifest.get("reasons", {})
    return {DAY: float(sum(count for reason, count in reasons.items() if reason.startswith(damaged_file(""))))}


def _label_rate(evidence: Evidence) -> Mapping[str, Value]:
    return {DAY: Share(evidence.today.positives, evidence.today.rows) if evidence.today.rows else None}


def _null_rate(columns: Columns) -> Measure:
    def null_rate(evidence: Evidence) -> Mapping[str, Value]:
        return {name: Share(column.nulls, evidence.today.rows) for name, column in columns(evidence.today).items()}

    return null_rate


def _not_finite(evidence: Evidence) -> Mapping[str, Value]:
    floats = {name: c for name, c in evidence.today.columns.items() if "float" in c.type or "double" in c.type}
    return {name: Share(column.not_finite, evidence.today.rows) for name, column in floats.items()}


def _range(columns: Columns) -> Measure:
    """The range of a column with only missing values is NaN, which passes any bound."""

    def value_range(evidence: Evidence) -> Mapping[str, Value]:
        today = evidence.today
        return {
            f"{name} {end}": math.nan if today.rows and column.nulls == today.rows else getattr(column, end)
            for name, column in columns(today).items()
            for end in ("min", "max")
        }

    return value_range


def _stored(profile: Profile) -> Mapping[str, ColumnProfile]:
    return profile.columns


def _joined(profile: Profile) -> Mapping[str, ColumnProfile]:
    """Columns of side tables, which are measured after the joins and are not stored in the feature table."""
    return {name: ColumnProfile(**column) for name, column in profile.manifest.get("joined_columns", {}).items()}


def _rows_beyond_manifest(evidence: Evidence) -> Mapping[str, Value]:
    today = evidence.today
    splits = today.manifest.get("splits", {})
    beyond: dict[str, Value] = {
        name: float(rows - splits[name]["rows"]) for name, rows in today.splits.items() if name in splits
    }
    rows = today.manifest.get("rows")
    return beyond | {DAY: None if rows is None else float(today.rows - rows)}


def _schema(evidence: Evidence) -> Mapping[str, Value]:
    spec, today = evidence.spec, evidence.today
    if evidence.stage == RAW_LOGS:
        types = {"event_time": "int64"} | {name: str(ARROW_TYPES[kind]) for name, kind in spec.source.columns.items()}
    elif evidence.stage == CLEANED_FEATURES:
        types = {field.name: str(field.type) for field in arrow_schema(spec)}
        types |= {name: "no such column" for name in today.columns if name not in types}
    else:  # readers and scans refuse blocks whose columns do not match the fingerprint
        types = {}
    pairs: dict[str, Value] = {}
    for name, kind in types.items():
        column = today.columns.get(name)
        pairs[name] = Pair(_spelled(column.type) if column else "no such column", _spelled(kind))
    return {"fingerprint": Pair(str(today.manifest.get("fingerprint")), spec.fingerprint_of(evidence.stage))} | pairs


def _spelled(kind: str) -> str:
    # Parquet readers call a list's elements "element", Arrow calls them "item"; the type is the same.
    return kind.replace("element: ", "item: ")


def _rows_of_features(evidence: Evidence) -> Mapping[str, Value]:
    return {DAY: Pair(str(evidence.today.rows), str(evidence.features.rows)) if evidence.features else None}


def _counts_of_features(evidence: Evidence) -> Mapping[str, Value]:
    """Compares the hash of all rows, the number of positives, and the id counts of each sparse feature."""
    if evidence.features is None:
        return {DAY: None}
    found: dict[str, Value] = {
        "row contents": Pair(f"{evidence.today.content:x}", f"{evidence.features.content:x}"),
        "positives": Pair(str(evidence.today.positives), str(evidence.features.positives)),
    }
    for name, before in evidence.features.histograms.items():
        now = evidence.today.histograms.get(name)
        moved = sum(abs(a - b) for a, b in zip(now.counts, before.counts, strict=True)) if now else sum(before.counts)
        found[name] = Pair(f"{moved} ids differ", "0 ids differ")
    return found


def _drift(evidence: Evidence) -> Mapping[str, Value]:
    """Excludes features of users and items, which naturally change from day to day."""
    spec, is_raw = evidence.spec, evidence.stage == RAW_LOGS
    identities = {s.name for s in spec.sparse if {spec.user, spec.item} & set(s.inputs)} if not is_raw else set()
    vocabularies = {s.name for s in spec.sparse if s.vocabulary} if not is_raw else set()
    found: dict[str, Value] = {}
    for name, today in evidence.today.histograms.items():
        if name not in identities:
            before = [p.histograms[name] for p in evidence.recent.values() if name in p.histograms]
            found[name] = population_stability_index(today, before, name in vocabularies)
    return found


MEASURES: dict[str, Measure] = {
    "schema": _schema,
    "rows_beyond_manifest": _rows_beyond_manifest,
    "rows_of_features": _rows_of_features,
    "counts_of_features": _counts_of_features,
    "volume": _volume,
    "quarantine_rate": _quarantine_rate,
    "damaged_files": _damaged_files,
    "join_match": _join_match,
    "null_rate": _null_rate(_stored),
    "joined_null_rate": _null_rate(_joined),
    "not_finite": _not_finite,
    "range": _range(_stored),
    "joined_range": _range(_joined),
    "label_rate": _label_rate,
    "bad_labels": _share("bad_labels"),
    "duplicate_rate": _share("duplicates"),
    "outside_day": _share("outside_day"),
    "out_of_order": _share("out_of_order"),
    "drift": _drift,
}
