"""What a day of a stage should look like, as data: one `Expectation` for each kind of thing that can be wrong.

Defaults that hold for any log, and what the catalog's `expectations` say of this one. How a figure is taken is
`ml.quality.measures`; Great Expectations decides on it in `ml.quality.validate`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ml.catalog.spec import Band, DatasetSpec, Severity
from ml.stages import CLEANED_FEATURES, MDS_DATASETS, RAW_LOGS, VALIDATED

BETWEEN, EQUAL = "ExpectColumnValuesToBeBetween", "ExpectColumnPairValuesToBeEqual"


@dataclass(frozen=True)
class Expectation:
    """One check. measure: of `ml.quality.measures`, a figure for each subject (a column, a split, or the day).

    type: the class in `great_expectations.expectations`; kwargs: its arguments but for the column. columns: those the
    measure is confined to, or all that it knows. compares: with recent days, and passes where there are none.
    """

    name: str
    measure: str
    type: str
    kwargs: Mapping[str, Any]
    severity: Severity
    why: str
    columns: tuple[str, ...] = ()
    compares: bool = False

    @property
    def expected(self) -> str:
        """What is expected, in words."""
        if self.type == EQUAL:
            return "equal"
        low, high = self.kwargs.get("min_value"), self.kwargs.get("max_value")
        if low is not None and low == high:
            return f"exactly {low:g}"
        above, below = ("above" if self.kwargs.get("strict_min") else "at least"), "at most"
        return " and ".join(f"{word} {value:g}" for word, value in ((above, low), (below, high)) if value is not None)


def contract(spec: DatasetSpec, stage: str) -> list[Expectation]:
    """The expectations of one stage, in the order in which a reader wants them. Raises `ValueError` for another stage."""
    if stage not in VALIDATED:
        raise ValueError(f"no contract for stage {stage!r}; there is one for each of {list(VALIDATED)}")
    return {RAW_LOGS: _raw, CLEANED_FEATURES: _features, MDS_DATASETS: _mds}[stage](spec)


def _raw(spec: DatasetSpec) -> list[Expectation]:
    expect = spec.expectations
    found = [
        _equal("schema", "schema", "Every declared column is there, in its declared type."),
        _none("complete", "rows_beyond_manifest", "The files hold as many rows as the manifest counts: nothing was lost."),
        _band(
            "volume", "volume", expect.volume, "A day much smaller or larger than recent ones is a feed cut or doubled.", True
        ),
        _band(
            "quarantine_rate", "quarantine_rate", expect.quarantine_rate, "Many malformed lines mean the format has changed."
        ),
        _none("whole_files", "damaged_files", "Of a file that breaks off, nobody knows how much is missing."),
        _none("required", "null_rate", "A row without its time can not be placed in a day.", ("event_time",)),
        _none("time_in_day", "outside_day", "Rows of another day would let a model see the future."),
        _none("time_order", "out_of_order", "What trains online must see events as they happened."),
    ]
    if spec.label.column:
        found += [
            _none("label_values", "bad_labels", "A label that is missing or neither 0 nor 1 can not be learnt."),
            _band("label_rate", "label_rate", expect.label_rate, "A day with almost no (or only) positives is a broken join."),
        ]
    if expect.unique:
        why = f"Rows that repeat another's {', '.join(expect.unique)} were sent twice, and would be trained on twice."
        found.append(_band("unique_keys", "duplicate_rate", expect.duplicates, why))
    found.append(_drift(spec))
    for kind, measure, why in (
        ("null_rate", "null_rate", "The share of missing values that the catalog allows."),
        ("value", "range", "The range of values that the catalog allows."),
    ):
        bands = {name: band for name, column in expect.columns.items() if (band := getattr(column, kind)) is not None}
        found += _declared(kind, measure, bands, why)
    return found


def _features(spec: DatasetSpec) -> list[Expectation]:
    expect = spec.expectations
    return [
        _equal(
            "schema", "schema", "The columns and types that batches are built from, and the catalog entry they were made by."
        ),
        _none("complete", "rows_beyond_manifest", "The files hold as many rows as the manifest counts: nothing was lost."),
        _band(
            "volume", "volume", expect.volume, "A day much smaller or larger than recent ones is a feed cut or doubled.", True
        ),
        _none(
            "no_nulls", "null_rate", "Missing values have their reserved id or fill; a null would break a batch.", _filled(spec)
        ),
        _none("finite", "not_finite", "One NaN or infinity makes every weight of a model NaN."),
        _none("label_values", "bad_labels", "A label that is missing or neither 0 nor 1 can not be learnt."),
        _band("label_rate", "label_rate", expect.label_rate, "A day with almost no (or only) positives is a broken join."),
        _sample_rate(),
        _none("time_in_day", "outside_day", "Rows of another day would let a model see the future."),
        _none("time_order", "out_of_order", "What trains online must see events as they happened."),
        _drift(spec),
    ]


def _mds(spec: DatasetSpec) -> list[Expectation]:
    expect = spec.expectations
    return [
        _equal("schema", "schema", "The columns and encodings that readers expect, and the catalog entry they were made by."),
        _equal("rows_equal", "rows_of_features", "Each row of the features is in exactly one split: nothing lost, none twice."),
        _none("complete", "rows_beyond_manifest", "The blocks hold as many rows as the manifest counts, split by split."),
        _band(
            "volume", "volume", expect.volume, "A day much smaller or larger than recent ones is a feed cut or doubled.", True
        ),
        _none("finite", "not_finite", "One NaN or infinity makes every weight of a model NaN."),
        _none("label_values", "bad_labels", "A label that is missing or neither 0 nor 1 can not be learnt."),
        _band("label_rate", "label_rate", expect.label_rate, "A day with almost no (or only) positives is a broken join."),
        _equal(
            "values_equal", "counts_of_features", "What rows hold is what the features' hold: they were moved, not changed."
        ),
        _sample_rate(),
        _none("time_in_day", "outside_day", "Rows of another day would let a model see the future."),
        _drift(spec),
    ]


def _band(name: str, measure: str, band: Band, why: str, compares: bool = False) -> Expectation:
    kwargs = {key: value for key, value in (("min_value", band.min), ("max_value", band.max)) if value is not None}
    return Expectation(name, measure, BETWEEN, kwargs, band.severity, why, compares=compares)


def _none(name: str, measure: str, why: str, columns: tuple[str, ...] = ()) -> Expectation:
    return Expectation(name, measure, BETWEEN, {"min_value": 0.0, "max_value": 0.0}, "error", why, columns)


def _equal(name: str, measure: str, why: str) -> Expectation:
    return Expectation(name, measure, EQUAL, {}, "error", why)


def _sample_rate() -> Expectation:
    why = "Weights are its inverse: 0 is infinite weight, above 1 is no share."
    kwargs = {"min_value": 0.0, "max_value": 1.0, "strict_min": True}
    return Expectation("sample_rate", "range", BETWEEN, kwargs, "error", why, ("sample_rate",))


def _drift(spec: DatasetSpec) -> Expectation:
    why = "Values spread otherwise than in recent days: a renamed category, a new client, a broken join."
    return _band("drift", "drift", spec.expectations.drift, why, compares=True)


def _filled(spec: DatasetSpec) -> tuple[str, ...]:
    """Columns of the feature table that never hold a null."""
    keys = [key for key, name in (("key:user", spec.user), ("key:item", spec.item)) if name]
    return ("event_time", "label", "sample_rate", *(d.name for d in spec.dense), *(s.name for s in spec.sparse), *keys)


def _declared(kind: str, measure: str, bands: Mapping[str, Band], why: str) -> list[Expectation]:
    """One check for the columns that share a band, named after the first of them."""
    shared: dict[str, list[str]] = {}
    for name, band in bands.items():
        shared.setdefault(band.model_dump_json(), []).append(name)
    found: list[Expectation] = []
    for names in shared.values():
        made = _band(f"{kind}_{_plain(names[0])}", measure, bands[names[0]], why)
        taken = {e.name for e in found}
        name = made.name if made.name not in taken else f"{made.name}_{len(found)}"
        found.append(Expectation(name, made.measure, made.type, made.kwargs, made.severity, why, tuple(names)))
    return found


def _plain(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_]", "_", name)
