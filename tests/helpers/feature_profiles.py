"""Profiles of datasets, made by hand."""

from __future__ import annotations

from collections.abc import Mapping

from ml.advisor.profiles.profile import DenseProfile, FeatureProfile, SparseProfile
from ml.catalog.spec import DatasetSpec

DAYS = 4


def sparse_profile(ids: int, occurrences: int, singles: float = 0.1, days: int = DAYS, growth: float = 0.05) -> SparseProfile:
    """A feature whose ids grow by a share of `growth` on the last day, and whose other ids occur equally often."""
    before = round(ids * (1 - growth))
    single = round(ids * singles)
    count = max(2, (occurrences - single) // max(ids - single, 1))
    frequency = [single] + [0] * (count.bit_length() - 1)
    frequency[count.bit_length() - 1] += ids - single
    return SparseProfile(
        ids=ids,
        ids_error=0.0,
        ids_by_day=(*([before] * (days - 1)), ids),
        occurrences=occurrences,
        missing=0.0,
        mean_length=1.0,
        singles=singles,
        frequency=tuple(frequency),
        zipf=1.1,
        top_share=0.1,
    )


def dense_profile(largest: float = 100.0, integers: bool = True, distinct: int = 50) -> DenseProfile:
    quantiles = {p: largest * p for p in (0.0, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1.0)}
    return DenseProfile(0.0, largest / 2, 1.0, quantiles, integers, distinct)


def profile_of(
    spec: DatasetSpec, rows: int = 100_000, ids: int = 1000, sparse: Mapping[str, SparseProfile] | None = None
) -> FeatureProfile:
    """A profile of `DAYS` days of `rows` rows each, in which every sparse feature has `ids` ids, except those of `sparse`."""
    features = {column.name: sparse_profile(ids, rows * DAYS) for column in spec.sparse} | dict(sparse or {})
    return FeatureProfile(
        dataset=spec.name,
        days=tuple(spec.days()[:DAYS]),
        rows=rows * DAYS,
        positives=rows * DAYS // 4,
        dense={column.name: dense_profile() for column in spec.dense},
        sparse=features,
    )
