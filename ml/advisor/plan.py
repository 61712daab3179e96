"""Plans the tuning for a day: the recipe of the first trial, the search space, and the recipe in use."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ml.advisor.advice import Advice
from ml.advisor.advise import advise
from ml.advisor.calibration import calibration_for
from ml.advisor.check import check_section
from ml.advisor.hardware import Hardware
from ml.advisor.profiles.day import profile_of
from ml.advisor.profiles.days import days_to_profile
from ml.advisor.search_section import search_section
from ml.advisor.wishes import MEMORY_SHARE, Wishes, memory_limit, wishes_of
from ml.catalog.spec import DatasetSpec
from ml.lake import Lake
from ml.recipes.layers import Layer, compose
from ml.recipes.recipe import Recipe, recipe_of
from ml.recipes.search import Search
from ml.recipes.stored import recipe_in_use
from ml.stages import advisor_recipes

_log = logging.getLogger("evergreen")


@dataclass(frozen=True)
class Plan:
    """A tuning that is about to start.

    Attributes:
        recipe: The recipe that is tried first: advice for the window, unless it is only explained, with the values that
            earlier tunings found.
        search: What is searched.
        present: The recipe in use.
        advice: The advice.
    """

    recipe: Recipe
    search: Search
    present: Recipe
    advice: Advice


def plan_tuning(
    spec: DatasetSpec,
    model: str,
    day: str,
    lake: Lake,
    hardware: Hardware,
    changes: Mapping[str, Any] | None = None,
    home: Path | None = None,
) -> Plan:
    """Plan the tuning that serves a day.

    Args:
        spec: The dataset.
        model: Name of the model.
        day: `YYYY-MM-DD`. Only days before it are used.
        lake: Where profiles and recipes are stored.
        hardware: What a trial can use.
        changes: Keys of the section `sigopt` that take precedence over the user's edits.
        home: Folder of the calibrations; see `calibration_for`.

    Returns:
        The plan.

    Raises:
        CatalogError: The recipe, the edits or the changes are not valid, or a parameter does not fit the recipe.
    """
    parent = spec.previous_day(day)
    present = recipe_in_use(lake, spec, model, parent) if parent else recipe_of(spec, model)
    days = days_to_profile(spec, lake, before=day)
    profile, wishes = profile_of(spec, days, lake) if days else None, wishes_of(spec, model)
    calibration = calibration_for(wishes, hardware, home) if profile else None
    advice = advise(spec, model, profile, hardware, wishes, calibration=calibration)
    layers = advice.layers if spec.recipe.advice == "apply" else []
    composed = compose(spec, model, layers, _tuned(lake, spec, model, parent))
    search = search_section(spec, model, composed.recipe, advice.rows, hardware.cores, changes).search
    check_section(spec, model, search, composed.recipe, strict=True)
    if warning := _memory_warning(search, advice, hardware):
        _log.warning("%s/%s: %s", spec.name, model, warning)
    return Plan(composed.recipe, search, present, advice)


def _memory_warning(search: Search, advice: Advice, hardware: Hardware) -> str | None:
    """Return a warning if trials that run at the same time are predicted to take too much memory together."""
    limit, trials = memory_limit(Wishes(), hardware), search.parallel_bandwidth
    if trials == 1 or advice.prediction is None or trials * advice.prediction.peak_bytes <= limit:
        return None
    return (
        f"sigopt.parallel_bandwidth: {trials} trials at a time are predicted to take {trials} x "
        f"{advice.prediction.peak_bytes / 1e6:,.0f} MB, more than {MEMORY_SHARE:.0%} of this machine's memory, "
        f"{limit / 1e6:,.0f} MB; run fewer at a time unless other machines run them"
    )


def _tuned(lake: Lake, spec: DatasetSpec, model: str, day: str | None) -> list[Layer]:
    """Return the layer of values that earlier tunings found, or none."""
    stage = advisor_recipes(model)
    tuned = lake.manifest(stage, spec.name, day).get("tuned") if day and lake.has(stage, spec.name, day) else None
    return [Layer(tuned["origin"], tuned["values"])] if tuned else []
