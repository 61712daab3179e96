"""The profile of a dataset's features: statistics of the data of one or more days.

A profile is small and is stored as JSON. `ml.advisor.profiles.sketch` stores the sketches from which profiles of several days
are merged.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Self

QUANTILES = (0.0, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1.0)
HOURS = 24


@dataclass(frozen=True)
class DenseProfile:
    """Statistics of one dense feature, after the transforms of the catalog entry.

    Attributes:
        missing: Share of rows with the value that the feature has where its input is missing (the catalog entry's `fill`,
            transformed). Inputs that equal `fill` are among them, because the features do not distinguish the two.
        mean: Mean; 0.0 without rows.
        std: Standard deviation of the population; 0.0 without rows.
        quantiles: Values by probability, for `QUANTILES`; empty without rows.
        quantiles_error: Relative error of each quantile; 0.0 if quantiles are exact.
        integers: Whether all values are whole numbers.
        distinct: Number of distinct values.
        distinct_error: Relative standard error of `distinct`; 0.0 if it is exact.
    """

    missing: float
    mean: float
    std: float
    quantiles: Mapping[float, float]
    integers: bool
    distinct: int
    quantiles_error: float = 0.0
    distinct_error: float = 0.0


@dataclass(frozen=True)
class SparseProfile:
    """Statistics of one sparse feature. Missing ids and ids out of vocabulary are not among the ids that are counted.

    Attributes:
        ids: Number of distinct ids.
        ids_error: Relative standard error of `ids`, `singles` and `frequency`; 0.0 if they are exact.
        ids_by_day: Number of distinct ids up to each day of the profile.
        occurrences: Number of ids in all rows.
        missing: Share of rows without an id.
        mean_length: Mean number of ids of a row, those out of vocabulary included.
        singles: Share of the distinct ids that occur once; 0.0 without ids.
        frequency: The k-th number counts the ids that occur at least 2^k and less than 2^(k+1) times.
        zipf: Exponent s of the fit `count ~ rank^-s`; None with fewer than 10 ids.
        top_share: Share of `occurrences` that the most frequent id has; 0.0 without ids.
        top_error: Largest amount by which `top_share` can be too small; 0.0 if it is exact.
        out_of_vocabulary: Share of all ids, missing ones excluded, that are out of vocabulary.
    """

    ids: int
    ids_error: float
    ids_by_day: tuple[int, ...]
    occurrences: int
    missing: float
    mean_length: float
    singles: float
    frequency: tuple[int, ...]
    zipf: float | None
    top_share: float
    top_error: float = 0.0
    out_of_vocabulary: float = 0.0


@dataclass(frozen=True)
class Cross:
    """A pair of sparse features that says more about the label together than the two do alone.

    Attributes:
        features: Names of the two features, each with one id per row.
        gain: Bits of information about the label, per row, beyond an additive model of the two features.
        pairs: Number of distinct pairs of ids.
    """

    features: tuple[str, str]
    gain: float
    pairs: int


@dataclass(frozen=True)
class FeatureProfile:
    """Statistics of a dataset's features on one or more days.

    Attributes:
        dataset: Name of the dataset.
        days: The days, in order.
        rows: Number of rows.
        positives: Number of rows with label 1.
        label_rate_by_hour: Share of positives in each of the 24 hours of the day, in the dataset's time zone; None for an hour
            without rows.
        bytes: Size of the features' Parquet files.
        dense: Statistics by dense feature.
        sparse: Statistics by sparse feature.
        crosses: The strongest crosses, by descending gain.
        drift: Population stability index of the last day against the days before it, by feature; None where there is
            nothing to compare.

    Example:
        >>> profile = FeatureProfile("shop", ("2026-01-01",), rows=4, positives=1)
        >>> profile.label_rate
        0.25
        >>> FeatureProfile.from_json(profile.to_json()) == profile
        True
    """

    dataset: str
    days: tuple[str, ...]
    rows: int
    positives: int
    label_rate_by_hour: tuple[float | None, ...] = (None,) * HOURS
    bytes: int = 0
    dense: Mapping[str, DenseProfile] = field(default_factory=dict)
    sparse: Mapping[str, SparseProfile] = field(default_factory=dict)
    crosses: tuple[Cross, ...] = ()
    drift: Mapping[str, float | None] = field(default_factory=dict)

    @property
    def label_rate(self) -> float | None:
        """Share of rows with label 1; None without rows."""
        return self.positives / self.rows if self.rows else None

    def to_json(self) -> str:
        """Return JSON text that depends on the values alone."""
        return json.dumps(asdict(self) | {"label_rate": self.label_rate}, indent=1)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what `to_json` has written."""
        data: dict[str, Any] = json.loads(text)
        data.pop("label_rate")
        data["days"], data["label_rate_by_hour"] = tuple(data["days"]), tuple(data["label_rate_by_hour"])
        data["dense"] = {name: _dense(values) for name, values in data["dense"].items()}
        data["sparse"] = {name: _sparse(values) for name, values in data["sparse"].items()}
        data["crosses"] = tuple(Cross((*c["features"],), c["gain"], c["pairs"]) for c in data["crosses"])
        return cls(**data)


def _dense(values: dict[str, Any]) -> DenseProfile:
    values["quantiles"] = {float(probability): value for probability, value in values["quantiles"].items()}
    return DenseProfile(**values)


def _sparse(values: dict[str, Any]) -> SparseProfile:
    values["ids_by_day"], values["frequency"] = tuple(values["ids_by_day"]), tuple(values["frequency"])
    return SparseProfile(**values)
