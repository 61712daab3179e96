"""The contract of a stage: a list of `Expectation`, one for each kind of fault in a day's data.

Some expectations apply to every log, others come from the catalog's `expectations`. `ml.quality.measures` computes the values,
and `ml.quality.validate` checks them.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ml.catalog.spec import Band, DatasetSpec, Severity
from ml.stages import CLEANED_FEATURES, MDS_DATASETS, RAW_LOGS, VALIDATED

BETWEEN, EQUAL = "ExpectColumnValuesToBeBetween", "ExpectColumnPairValuesToBeEqual"


@dataclass(frozen=True)
class Expectation:
    """One check of a day.

    Args:
        name: Name of the check.
        measure: Name of a measure in `ml.quality.measures`, which returns a value per subject: a column, a split or the day.
        type: Name of a class in `great_expectations.expectations`.
        kwargs: Arguments of that class, without the column.
        severity: `error` blocks downstream assets, `warning` does not.
        why: What a failure means, for the check's description.
        columns: Columns that are checked; empty for all columns of the measure.
        compares: Whether the day is compared with recent days. Without recent days such a check passes.
        key: Key of the catalog entry that decides the check; empty if none does.
    """

    name: str
    measure: str
    type: str
    kwargs: Mapping[str, Any]
    severity: Severity
    why: str
    columns: tuple[str, ...] = ()
    compares: bool = False
    key: str = ""

    @property
    def expected(self) -> str:
        """The expected value or range, as text."""
        if self.type == EQUAL:
            return "equal"
        low, high = self.kwargs.get("min_value"), self.kwargs.get("max_value")
        if low is not None and low == high:
            return f"exactly {low:g}"
        above, below = ("above" if self.kwargs.get("strict_min") else "at least"), "at most"
        return " and ".join(f"{word} {value:g}" for word, value in ((above, low), (below, high)) if value is not None)


def contract(spec: DatasetSpec, stage: str) -> list[Expectation]:
    """Returns the expectations of a stage, in the order in which they are shown.

    Args:
        spec: The dataset.
        stage: One of `ml.stages.VALIDATED`.

    Raises:
        ValueError: The stage has no contract.
    """
    if stage not in VALIDATED:
        raise ValueError(f"stage {stage!r} has no contract; expected one of {list(VALIDATED)}")
    return {RAW_LOGS: _raw, CLEANED_FEATURES: _features, MDS_DATASETS: _mds}[stage](spec)


def _raw(spec: DatasetSpec) -> list[Expectation]:
    expect = spec.expectations
    found = [
        _equal("schema", "schema", "Every declared column exists with its declared type."),
        _complete("The files hold the number of rows that the manifest states, so no rows were lost."),
        _volume(spec),
        _band(
            "quarantine_rate",
            "quarantine_rate",
            expect.quarantine_rate,
            "Many malformed lines suggest that the format has changed.",
        ),
        _none("whole_files", "damaged_files", "A truncated file lacks an unknown number of rows."),
        _none("required", "null_rate", "A row without an event time belongs to no day.", ("event_time",)),
        _time_in_day(),
        _time_order(),
    ]
    if spec.label.column and spec.label.column not in spec.action_columns:
        found += _labels(spec)
    if expect.unique:
        why = f"Rows with the same {', '.join(expect.unique)} were sent more than once and would be trained on more than once."
        found.append(_band("unique_keys", "duplicate_rate", expect.duplicates, why, key="expectations.duplicates"))
    found.append(_drift(spec))
    return found + _declared(spec, spec.source.columns, "null_rate", "range")


def _features(spec: DatasetSpec) -> list[Expectation]:
    return [
        _equal("schema", "schema", "Columns, types and fingerprint match the catalog entry, from which batches are built."),
        _complete("The files hold the number of rows that the manifest states, so no rows were lost."),
        _volume(spec),
        _none(
            "no_nulls",
            "null_rate",
            "Missing values are replaced by a reserved id or a fill value; a null would break a batch.",
            _filled(spec),
        ),
        _finite(),
        *_labels(spec),
        _sample_rate(),
        _time_in_day(),
        _time_order(),
        _drift(spec),
        *([_join_match(spec)] if spec.join else []),
        *_declared(spec, spec.joined_columns, "joined_null_rate", "joined_range"),
    ]


def _join_match(spec: DatasetSpec) -> Expectation:
    why = "A join that matches few rows has a wrong key or an outdated side table. The other rows lack the joined columns."
    return _band("join_match", "join_match", spec.expectations.join_match, why)


def _mds(spec: DatasetSpec) -> list[Expectation]:
    return [
        _equal("schema", "schema", "Columns, encodings and fingerprint match the catalog entry, which readers rely on."),
        _equal(
            "rows_equal", "rows_of_features", "Every row of the features is in exactly one split, so none is lost or repeated."
        ),
        _complete("The blocks of each split hold the number of rows that the manifest states."),
        _volume(spec),
        _finite(),
        *_labels(spec),
        _equal(
            "values_equal",
            "counts_of_features",
            "The rows have the same values as the features, so writing changed none.",
        ),
        _sample_rate(),
        _time_in_day(),
        _drift(spec),
    ]


_KEYS = {"label_values": "label", "required": "time.column", "time_in_day": "time.timezone"}


def _band(name: str, measure: str, band: Band, why: str, compares: bool = False, key: str = "") -> Expectation:
    """A check of a band of the catalog entry; `key` is `expectations.<name>` by default."""
    kwargs = {key: value for key, value in (("min_value", band.min), ("max_value", band.max)) if value is not None}
    return Expectation(name, measure, BETWEEN, kwargs, band.severity, why, compares=compares, key=key or f"expectations.{name}")


def _none(name: str, measure: str, why: str, columns: tuple[str, ...] = ()) -> Expectation:
    kwargs = {"min_value": 0.0, "max_value": 0.0}
    return Expectation(name, measure, BETWEEN, kwargs, "error", why, columns, key=_KEYS.get(name, ""))


def _equal(name: str, measure: str, why: str) -> Expectation:
    return Expectation(name, measure, EQUAL, {}, "error", why)


def _complete(why: str) -> Expectation:
    return _none("complete", "rows_beyond_manifest", why)


def _volume(spec: DatasetSpec) -> Expectation:
    why = "A day that is much smaller or larger than recent days suggests a truncated or duplicated feed."
    return _band("volume", "volume", spec.expectations.volume, why, compares=True)


def _labels(spec: DatasetSpec) -> list[Expectation]:
    why = "A day with almost no positives, or almost only positives, suggests a broken join."
    return [
        _none("label_values", "bad_labels", "A label must be 0 or 1; other values cannot be trained on."),
        _band("label_rate", "label_rate", spec.expectations.label_rate, why),
    ]


def _finite() -> Expectation:
    return _none("finite", "not_finite", "A single NaN or infinity makes every weight of a model NaN.")


def _time_in_day() -> Expectation:
    return _none("time_in_day", "outside_day", "Rows of another day would leak future events into training.")


def _time_order() -> Expectation:
    return _none("time_order", "out_of_order", "Online training requires events in time order.")


def _sample_rate() -> Expectation:
    why = "A sampling rate is a probability above 0; its inverse is the example's weight."
    kwargs = {"min_value": 0.0, "max_value": 1.0, "strict_min": True}
    return Expectation("sample_rate", "range", BETWEEN, kwargs, "error", why, ("sample_rate",))


def _drift(spec: DatasetSpec) -> Expectation:
    why = (
        "Values are distributed differently from recent days, which suggests a renamed category, a new client or a broken join."
    )
    return _band("drift", "drift", spec.expectations.drift, why, compares=True)


def _filled(spec: DatasetSpec) -> tuple[str, ...]:
    """Columns of the feature table that never contain nulls."""
    keys = [key for key, name in (("key:user", spec.user), ("key:item", spec.item), ("key:session", spec.session)) if name]
    further = (*(f"label:{name}" for name in spec.labels), *(("sample:weight",) if spec.label.weight else ()))
    return (
        "event_time",
        "label",
        "sample_rate",
        *further,
        *(d.name for d in spec.dense),
        *(s.name for s in spec.sparse),
        *keys,
    )


def _declared(spec: DatasetSpec, columns: Collection[str], null_rate: str, value: str) -> list[Expectation]:
    """The checks that `expectations.columns` declares for some columns, with the measures of missing values and of ranges."""
    declared = {name: column for name, column in spec.expectations.columns.items() if name in columns}
    null_rates = {name: column.null_rate for name, column in declared.items() if column.null_rate}
    values = {name: column.value for name, column in declared.items() if column.value}
    return [
        *_grouped("null_rate", null_rate, null_rates, "The catalog limits the share of missing values."),
        *_grouped("value", value, values, "The catalog limits the range of values."),
    ]


def _grouped(kind: str, measure: str, bands: Mapping[str, Band], why: str) -> list[Expectation]:
    """One check per group of columns with the same band, named after the first column."""
    shared: dict[str, list[str]] = {}
    for name, band in bands.items():
        shared.setdefault(band.model_dump_json(), []).append(name)
    found: list[Expectation] = []
    for names in shared.values():
        key = f"expectations.columns.{names[0]}.{kind}"
        made = _band(f"{kind}_{_plain(names[0])}", measure, bands[names[0]], why, key=key)
        taken = {e.name for e in found}
        name = made.name if made.name not in taken else f"{made.name}_{len(found)}"
        found.append(replace(made, name=name, columns=tuple(names)))
    return found


def _plain(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_]", "_", name)
