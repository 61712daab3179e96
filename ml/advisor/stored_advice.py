"""The advice that applies to a day. It is kept from day to day, and given again when the size of a day has changed.

Advice that followed each day's data would change a recipe daily, and with it the meaning of its metrics.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

from ml.advisor.advice import Advice
from ml.advisor.advise import advise
from ml.advisor.hardware import detect
from ml.advisor.profiles.day import profile_of
from ml.advisor.profiles.days import days_to_profile
from ml.catalog.spec import DatasetSpec
from ml.lake import Lake
from ml.recipes.layers import Layer
from ml.recipes.recipe import Recipe
from ml.stages import FEATURE_PROFILES, advisor_recipes

_FACTOR = 2.0  # new advice is given once the number of rows of a day has changed by this factor


@dataclass(frozen=True)
class StoredAdvice:
    """Advice as a recipe's manifest holds it.

    Attributes:
        days: Days of the profile; empty without one.
        rows: Rows of a day of the profile; None without one.
        applied: The layers of a recipe as plain data, one for each rule.
        values: `Advised` values as plain data, those that differ from the values without advice.
        kept: `Advised` values that are not applied, because the user has set the key or the structure of the model is kept.
        suggestions: Changes that no recipe key can express, as plain data.
    """

    days: tuple[str, ...]
    rows: float | None
    applied: tuple[Mapping[str, Any], ...]
    values: tuple[Mapping[str, Any], ...]
    kept: tuple[Mapping[str, Any], ...]
    suggestions: tuple[Mapping[str, Any], ...]

    @classmethod
    def of(cls, advice: Advice) -> Self:
        """Returns advice as plain data."""
        values = tuple(asdict(value) for value in advice.values if value.changes)
        kept = tuple(asdict(value) for value in advice.kept)
        applied = tuple(asdict(layer) for layer in advice.layers)
        return cls(advice.days, advice.rows, applied, values, kept, tuple(asdict(each) for each in advice.suggestions))

    @classmethod
    def from_manifest(cls, manifest: Mapping[str, Any]) -> Self | None:
        """Returns the advice in the manifest of a recipe; None if it holds none."""
        found = manifest.get("advice")
        if found is None:
            return None
        lists = (tuple(found[name]) for name in ("applied", "values", "kept", "suggestions"))
        return cls(tuple(found["days"]), found["rows"], *lists)

    @property
    def layers(self) -> list[Layer]:
        """The layers of a recipe, one for each rule."""
        return [Layer(**layer) for layer in self.applied]


def advice_of_day(spec: DatasetSpec, model: str, day: str, lake: Lake, present: Recipe | None) -> StoredAdvice:
    """Return the advice that applies to a day.

    Args:
        spec: The dataset.
        model: Name of the model.
        day: `YYYY-MM-DD`. Only profiles of days before it are used.
        lake: Where profiles and recipes are stored.
        present: The recipe of the day before, whose structure is kept; None for a day that starts from nothing.
    """
    stage, parent = advisor_recipes(model), spec.previous_day(day)
    days = days_to_profile(spec, lake, before=day)
    rows = _rows(lake, spec, days)
    for known in (day, parent):
        found = known and lake.has(stage, spec.name, known) and lake.manifest(stage, spec.name, known)
        advice = StoredAdvice.from_manifest(found) if found else None
        if advice is not None and (_alike(advice.rows, rows) if known == parent else advice.days == tuple(days)):
            return advice
    profile = profile_of(spec, days, lake) if rows else None
    return StoredAdvice.of(advise(spec, model, profile, detect(), incumbent=present))


def _rows(lake: Lake, spec: DatasetSpec, days: list[str]) -> float | None:
    """Return the mean number of rows of a day; None if there are none."""
    counts = [lake.manifest(FEATURE_PROFILES, spec.name, day)["rows"] for day in days]
    return sum(counts) / len(counts) if sum(counts) else None


def _alike(before: float | None, now: float | None) -> bool:
    if before is None or now is None:
        return before is now
    return 1 / _FACTOR <= now / before <= _FACTOR
