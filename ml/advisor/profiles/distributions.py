"""The part of a stored sketch that drift is computed from: how often each value occurs. Reading it takes milliseconds."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from ml.advisor.profiles.drift import dense_drift
from ml.advisor.profiles.value_counts import ValueCounts, merge_values
from ml.quality.drift import population_stability_index
from ml.quality.histogram import Histogram


@dataclass(frozen=True, eq=False)
class Distributions:
    """Distributions of the features of one day.

    Attributes:
        dense: Counts of values by dense feature.
        sparse: Counts of ids by bucket, by sparse feature.
    """

    dense: Mapping[str, ValueCounts]
    sparse: Mapping[str, Histogram]


def drift_from(
    today: Distributions, before: Sequence[Distributions], vocabularies: Collection[str] = (), excluded: Collection[str] = ()
) -> dict[str, float]:
    """Computes how much the features of a day differ from the features of other days together.

    Args:
        today: The day.
        before: The other days, at least one.
        vocabularies: Sparse features with a growing vocabulary.
        excluded: Features to leave out.

    Returns:
        The population stability index by feature, without features that have too few values to compare.
    """
    dense = {
        name: dense_drift(now, merge_values([day.dense[name] for day in before]))
        for name, now in today.dense.items()
        if name not in excluded
    }
    sparse = {
        name: population_stability_index(now, [day.sparse[name] for day in before], name in vocabularies)
        for name, now in today.sparse.items()
        if name not in excluded
    }
    return {name: float(index) for name, index in (dense | sparse).items() if index is not None}


def usual_drift(
    days: Sequence[Distributions], vocabularies: Collection[str] = (), excluded: Collection[str] = ()
) -> dict[str, float]:
    """Computes how much days differ among themselves: by feature, the largest drift of one of them from the others.

    Args:
        days: At least two days.
        vocabularies: As for `drift_from`.
        excluded: As for `drift_from`.

    Returns:
        The population stability index by feature; 0 for a feature with too few values to compare.
    """
    others = ([*days[:n], *days[n + 1 :]] for n in range(len(days)))
    found = [drift_from(day, rest, vocabularies, excluded) for day, rest in zip(days, others, strict=True)]
    names = (name for name in [*days[0].dense, *days[0].sparse] if name not in excluded)
    return {name: _largest(drift.get(name) for drift in found) for name in names}


def _largest(values: Iterable[float | None]) -> float:
    return max((value for value in values if value is not None), default=0.0)
