"""The work of a day of training: rows, looked-up ids, and rows of tables."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise

from ml.advisor.profiles.profile import FeatureProfile, SparseProfile
from ml.recipes.recipe import Recipe
from ml.recipes.tables import CollisionlessTable
from ml.schema import FeatureSchema


@dataclass(frozen=True)
class FeatureLoad:
    """The ids of a sparse feature on a day.

    Attributes:
        lookups: Ids in the day's rows.
        ids: Distinct ids of all days until the end of the day.
        new: Distinct ids that occur on this day for the first time.
        ids_by_count: Number of distinct ids that occur at least 1, 2, 4, 8, ... times over all days.
    """

    lookups: float
    ids: float
    new: float
    ids_by_count: tuple[float, ...] = ()

    def at_least(self, count: int) -> float:
        """Return the number of ids that occur at least `count` times, interpolated on a logarithmic scale."""
        if count <= 1 or not self.ids_by_count:
            return self.ids
        below = min(count.bit_length() - 1, len(self.ids_by_count) - 1)
        above = min(below + 1, len(self.ids_by_count))
        high = self.ids_by_count[above] if above < len(self.ids_by_count) else 0.0
        part = count / (1 << below) - 1
        return max(0.0, self.ids_by_count[below] + (high - self.ids_by_count[below]) * min(part, 1.0))

    def distinct(self, lookups: float) -> float:
        """Return the expected number of distinct ids among some lookups, each drawn from the ids' frequency distribution.

        Example:
            >>> skewed, even = FeatureLoad(1000, 100, 0, (100, 50, 25, 12, 6, 3)), FeatureLoad(1000, 100, 0)
            >>> round(skewed.distinct(100)), round(even.distinct(100))
            (42, 63)
        """
        at_least = (*(self.ids_by_count or (self.ids,)), 0.0)
        ids = [high - low for high, low in pairwise(at_least)]
        # Counts from 2^k up to 2^(k + 1), whose logarithms are taken for uniform.
        counts = [2**k * (1 / math.log(2) if k else 1.0) for k in range(len(ids))]
        total = sum(number * count for number, count in zip(ids, counts, strict=True))
        if not total:
            return 0.0
        # An id is drawn by none of n lookups with probability (1 - p)^n, about exp(-n p).
        seen = (number * -math.expm1(-lookups * count / total) for number, count in zip(ids, counts, strict=True))
        return min(sum(seen), lookups)


@dataclass(frozen=True)
class Workload:
    """A day of training.

    Attributes:
        rows: Rows of the day.
        positives: Rows with label 1.
        features: Ids by sparse feature.
    """

    rows: float
    positives: float
    features: Mapping[str, FeatureLoad] = field(default_factory=dict)

    @classmethod
    def of(cls, profile: FeatureProfile) -> Workload:
        """Return the day after a profile's days, with their average number of rows.

        Raises:
            ValueError: The profile has no rows.
        """
        days = len(profile.days)
        if not days or not profile.rows:
            raise ValueError(f"the profile of {profile.dataset} has no rows")
        features = {name: _load(sparse, days) for name, sparse in profile.sparse.items()}
        return cls(profile.rows / days, profile.positives / days, features)

    def with_rows(self, rows: float) -> Workload:
        """Return a day of the same data with another number of rows."""
        factor = rows / self.rows
        features = {
            name: replace(load, lookups=load.lookups * factor, ids=load.ids + load.new * (factor - 1), new=load.new * factor)
            for name, load in self.features.items()
        }
        return Workload(rows, self.positives * factor, features)

    def model_rows(self, recipe: Recipe) -> float:
        """Return the number of rows that the model computes: with `loss: softmax`, only those with label 1."""
        return self.positives if getattr(recipe.model, "loss", None) == "softmax" else self.rows

    def lookups(self, recipe: Recipe, feature: str) -> float:
        """Return the number of ids of a feature that the model looks up in the day."""
        share = self.model_rows(recipe) / self.rows
        extra = 0.0
        if feature in getattr(recipe.model, "item", ()):
            extra = getattr(recipe.model, "uniform_negatives", 0) * self.rows / recipe.batch_size
        load = self.features.get(feature)
        return (load.lookups * share if load else 0.0) + extra

    def updated_rows(self, recipe: Recipe, feature: str) -> float:
        """Return the number of rows of a feature's table that the steps of the day update, each once for all of its lookups."""
        steps, load = self.steps(recipe), self.features.get(feature)
        return steps * load.distinct(self.lookups(recipe, feature) / steps) if load and steps else 0.0

    def steps(self, recipe: Recipe) -> int:
        """Return the number of optimizer steps of the day."""
        return math.ceil(self.rows / recipe.batch_size)

    def table_rows(self, recipe: Recipe, feature: str) -> float:
        """Return the number of rows of a feature's collisionless table at the end of the day.

        Expiry is not considered, so this is what the table has before `ttl_seconds` has passed.
        """
        table, load = recipe.tables.of(feature), self.features.get(feature)
        if load is None or not isinstance(table, CollisionlessTable):
            return 0.0
        found = load.at_least(table.min_count)
        return min(found, table.max_rows) if table.max_rows else found

    def new_rows(self, recipe: Recipe, feature: str) -> float:
        """Return the number of rows that a feature's collisionless table admits on the day."""
        load = self.features.get(feature)
        return self.table_rows(recipe, feature) * load.new / load.ids if load and load.ids else 0.0


def missing_features(workload: Workload, schema: FeatureSchema) -> list[str]:
    """Return the sparse features of a schema of which the workload knows nothing."""
    return [name for name in schema.sparse if name not in workload.features]


def _load(sparse: SparseProfile, days: int) -> FeatureLoad:
    """Return the load of the day after a profile's days."""
    counts, lookups = sparse.frequency, sparse.occurrences / days
    at_least = tuple(float(sum(counts[k:])) for k in range(len(counts)))
    if len(sparse.ids_by_day) > 1:
        new = float(sparse.ids_by_day[-1] - sparse.ids_by_day[-2])
    else:  # Good (1953): the next id is a new one with a probability of the share of occurrences that ids seen once have
        new = lookups * sparse.singles * sparse.ids / max(sparse.occurrences, 1)
    return FeatureLoad(lookups, sparse.ids + new, new, at_least)
