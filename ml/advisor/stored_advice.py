"""The advice that applies to a day, which is kept from day to day.

Advice is given again when the size of a day or the user's wishes or rules have changed, when the machine has less memory, or
when the user no longer sets a key that it is about.
Advice that followed each day's data would change a recipe daily, and with it the meaning of its metrics.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from ml.advisor.advice import Advice
from ml.advisor.advise import advise, pinned_keys
from ml.advisor.calibration import calibration_for
from ml.advisor.draft import is_structural, under
from ml.advisor.hardware import detect
from ml.advisor.profiles.day import profile_of
from ml.advisor.profiles.days import days_to_profile
from ml.advisor.rule_files import rules_of
from ml.advisor.wishes import memory_limit, wishes_of
from ml.catalog.spec import DatasetSpec
from ml.lake import Lake
from ml.recipes.edits import flat, nested
from ml.recipes.layers import Layer
from ml.recipes.recipe import Recipe
from ml.stages import FEATURE_PROFILES, advisor_recipes

_FACTOR = 2.0  # new advice is given once the number of rows of a day has changed by this factor
_LESS = 0.9  # and once the limit of memory is below this share of the one that the advice was given for


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
        warnings: What the limits of time and memory could not reach, or what the memory of the machine has changed.
        wishes: The user's wishes that it was given for (`Wishes.of_training`).
        memory: The limit of memory that it was given for, in bytes; None for advice of earlier versions.
        rules: The digest of the user's rules that it was given for (`Rules.digest`).
    """

    days: tuple[str, ...]
    rows: float | None
    applied: tuple[Mapping[str, Any], ...]
    values: tuple[Mapping[str, Any], ...]
    kept: tuple[Mapping[str, Any], ...]
    suggestions: tuple[Mapping[str, Any], ...]
    warnings: tuple[str, ...] = ()
    wishes: Mapping[str, Any] = field(default_factory=dict)
    memory: float | None = None
    rules: str = ""

    @classmethod
    def of(cls, advice: Advice) -> Self:
        """Returns advice as plain data."""
        values = tuple(asdict(value) for value in advice.values if value.changes)
        kept = tuple(asdict(value) for value in advice.kept)
        applied = tuple(asdict(layer) for layer in advice.layers)
        suggestions = tuple(asdict(each) for each in advice.suggestions)
        return cls(
            advice.days,
            advice.rows,
            applied,
            values,
            kept,
            suggestions,
            warnings=advice.warnings,
            wishes=advice.wishes.of_training,
            memory=advice.memory,
            rules=advice.rules.digest,
        )

    @classmethod
    def from_manifest(cls, manifest: Mapping[str, Any]) -> Self | None:
        """Returns the advice in the manifest of a recipe; None if it holds none."""
        found = manifest.get("advice")
        if found is None:
            return None
        lists = {name: tuple(found[name]) for name in ("days", "applied", "values", "kept", "suggestions")}
        added = {"warnings": tuple(found.get("warnings", ())), "wishes": found.get("wishes", {}), "memory": found.get("memory")}
        return cls(rows=found["rows"], rules=found.get("rules", ""), **lists, **added)

    @property
    def layers(self) -> list[Layer]:
        """The layers of a recipe, one for each rule."""
        return [Layer(**layer) for layer in self.applied]


def advice_of_day(
    spec: DatasetSpec,
    model: str,
    day: str,
    lake: Lake,
    present: Recipe | None,
    tuned: StoredAdvice | None = None,
    home: Path | None = None,
) -> StoredAdvice:
    """Return the advice that applies to a day.

    Args:
        spec: The dataset.
        model: Name of the model.
        day: `YYYY-MM-DD`. Only profiles of days before it are used.
        lake: Where profiles and recipes are stored.
        present: The recipe of the day before, whose structure is kept; None for a day that starts from nothing.
        tuned: The advice in the recipe of a tuning whose result is used from the day on. It replaces earlier advice.
        home: Folder of the calibrations; see `calibration_for`.
    """
    wishes, rules, hardware = wishes_of(spec, model), rules_of(spec), detect()
    memory = memory_limit(wishes, hardware)
    stage, parent = advisor_recipes(model), spec.previous_day(day)
    days = days_to_profile(spec, lake, before=day)
    rows = _rows(lake, spec, days)
    own, before = (_stored(lake, spec, stage, known) for known in (day, parent))
    if tuned is None:
        # A rerun uses the day's own advice, also after the advice of the day before was given again, and on another machine.
        before = own if own is not None and (own.days == tuple(days) or own == before) else before
        kept = before is not None and (before is own or (_alike(before.rows, rows) and not _shrunk(before.memory, memory)))
    else:
        before, kept = tuned, True
    kept = before is not None and kept and before.wishes == wishes.of_training and before.rules == rules.digest
    if before is not None and kept and not _revealed(before, spec, model, present):
        return before
    profile = profile_of(spec, days, lake) if rows else None
    calibration = calibration_for(wishes, hardware, home) if profile else None
    new = StoredAdvice.of(
        advise(spec, model, profile, hardware, wishes, rules=rules, calibration=calibration, incumbent=present)
    )
    return _with_structure(new, before, present) if before and present else new


def _stored(lake: Lake, spec: DatasetSpec, stage: str, day: str | None) -> StoredAdvice | None:
    if day is None or not lake.has(stage, spec.name, day):
        return None
    return StoredAdvice.from_manifest(lake.manifest(stage, spec.name, day))


def _revealed(advice: StoredAdvice, spec: DatasetSpec, model: str, present: Recipe | None) -> bool:
    """Whether the user has set a key when the advice was given, and no longer does, so that an advised value can apply.

    All advice is then given again, because other values may have been chosen to go with the user's.
    """
    pinned = pinned_keys(spec, model)
    return any(not (value["structural"] and present) and not under(value["key"], pinned) for value in advice.kept)


def _with_structure(new: StoredAdvice, before: StoredAdvice, present: Recipe) -> StoredAdvice:
    """Add the former advice that the structure in use is made from; the new advice takes this structure as given."""
    in_use = flat(present.model_dump(mode="json"))
    layers = []
    for layer in before.layers:
        values = {key: value for key, value in flat(layer.values).items() if is_structural(key) and in_use.get(key) == value}
        if values:
            layers.append(asdict(Layer(layer.origin, nested(values))))
    given = {value["key"] for value in new.values}
    explained = [value for value in before.values if value["structural"] and value["key"] not in given]
    return replace(new, applied=(*layers, *new.applied), values=(*explained, *new.values))


def _rows(lake: Lake, spec: DatasetSpec, days: list[str]) -> float | None:
    """Return the mean number of rows of a day; None if there are none."""
    counts = [lake.manifest(FEATURE_PROFILES, spec.name, day)["rows"] for day in days]
    return sum(counts) / len(counts) if sum(counts) else None


def _shrunk(before: float | None, now: float) -> bool:
    return before is not None and now < _LESS * before


def _alike(before: float | None, now: float | None) -> bool:
    if before is None or now is None:
        return before is now
    return 1 / _FACTOR <= now / before <= _FACTOR
