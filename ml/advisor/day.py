"""The recipe of a day: composed of the recipe file, advice, the catalog entry's overrides, tuned values and the user's edits.

A model's state fits one structure (`Recipe.structure`), so a day changes only keys outside the structure of the day before.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError
from upath import UPath

from ml.advisor.check import check_section
from ml.advisor.hardware import detect
from ml.advisor.search_section import search_section
from ml.advisor.stored_advice import StoredAdvice, advice_of_day
from ml.catalog.document import CatalogError
from ml.catalog.spec import DatasetSpec
from ml.lake import Lake
from ml.recipes.dialects.section import SECTION
from ml.recipes.edits import flat, nested
from ml.recipes.layers import Composed, Layer, Overrode, compose, keep_structure
from ml.recipes.recipe import Recipe, recipe_of
from ml.recipes.search import Search
from ml.recipes.sections import to_sections
from ml.recipes.stored import STARTS_FROM
from ml.stages import FEATURE_PROFILES, advisor_recipes, tuned_models, tuning_results

RECIPE = "recipe.yaml"
_log = logging.getLogger("evergreen")


@dataclass(frozen=True)
class AdvisedDay:
    """The recipe of a day in the lake.

    Attributes:
        folder: The partition that was written.
        recipe: The recipe.
        search: What a tuning of the recipe searches: its section `sigopt`.
        origins: Where each value comes from, by key; keys of the section `sigopt` are as in `SearchSection.origins`.
        advice: The advice in it, with reasons.
        overrode: Values that the user's edits replaced.
        refused: Values by key that were not applied, because they would change the structure of the model in use; None for
            the removal of a key.
    """

    folder: UPath
    recipe: Recipe
    search: Search
    origins: Mapping[str, str]
    advice: StoredAdvice
    overrode: tuple[Overrode, ...] = ()
    refused: Mapping[str, Any] = field(default_factory=dict)


def advise_day(spec: DatasetSpec, model: str, day: str, lake: Lake, home: Path | None = None) -> AdvisedDay:
    """Write the partition `advisor_recipes/<model>/<dataset>/<day>`: the recipe that trains the day.

    It depends only on days before it. Rerunning it gives the same bytes.

    Args:
        spec: The dataset.
        model: Name of the model.
        day: `YYYY-MM-DD`.
        lake: Where recipes are stored.
        home: Folder of the calibrations; see `ml.advisor.calibration.calibration_for`.

    Returns:
        The recipe, with the origin of each value.

    Raises:
        CatalogError: The recipe, the catalog entry's overrides or the edits are not valid, also in what they say of tuning.
        ValueError: The dataset has no such day.
    """
    stage, parent = advisor_recipes(model), spec.previous_day(day)
    result = _adopted(lake, spec, model, day) if parent else None  # the first day starts from nothing
    inputs = [(stage, parent)] if parent and lake.has(stage, spec.name, parent) else []
    before = lake.manifest(stage, spec.name, parent).get("tuned") if parent and inputs else None
    new, late = _not_yet_used(lake, spec, model, before, day, result)
    tuned = _tuned_values(lake, spec, model, before, new)
    if result and result["restarts"]:
        present = Recipe.model_validate(result["recipe"])  # the stored state has its structure
    else:
        present = _recipe_of(lake, spec, model, parent) if parent else None
    of_tuning = StoredAdvice.from_manifest(new[max(new)]) if new else None
    advice = advice_of_day(spec, model, day, lake, present, of_tuning, home)
    layers = [Layer(tuned["origin"], tuned["values"])] if tuned else []
    composed = _composed(spec, model, advice if spec.recipe.advice == "apply" else None, layers)
    cores = _cores(lake, spec, stage, day)
    section = search_section(spec, model, composed.recipe, advice.rows, cores)
    for warning in (*advice.warnings, *check_section(spec, model, section.search, composed.recipe), *section.search.warnings()):
        _log.warning("%s/%s of %s: %s", spec.name, stage, day, warning)
    kept = keep_structure(composed.recipe, present, (feature.name for feature in spec.sparse)) if present else None
    refused = kept.refused if kept else {}
    recipe = kept.recipe if kept else composed.recipe
    origins = _origins(composed, recipe, refused) | dict(section.origins)
    overrode = (*composed.overrode, *section.overrode)
    folder = lake.partition(stage, spec.name, day)
    done = AdvisedDay(folder, recipe, section.search, origins, advice, overrode, {**late, **refused})
    _report(done, f"{spec.name}/{stage} of {day}")
    inputs += [(FEATURE_PROFILES, used) for used in advice.days if lake.has(FEATURE_PROFILES, spec.name, used)]
    tunings = {day} if result else set()
    if tuned and "day" in tuned and lake.has(tuning_results(model), spec.name, tuned["day"]):
        tunings.add(tuned["day"])
    lineage = lake.lineage(spec.name, [*inputs, *((tuning_results(model), known) for known in sorted(tunings))])
    manifest = _manifest(done, spec, recipe_of(spec, model)) | lineage
    manifest |= {"advice": asdict(advice), "cores": cores, "tuned": tuned, STARTS_FROM: None}
    if result and result["restarts"]:
        manifest |= {STARTS_FROM: tuning_results(model), "digest": f"{recipe.fingerprint}-{result['digest'][:16]}"}
    with lake.write(stage, spec.name, day) as folder:
        (folder / RECIPE).write_text(_text(done))
        lake.write_manifest(folder, manifest)
    return done


def _cores(lake: Lake, spec: DatasetSpec, stage: str, day: str) -> float:
    """Return the cores for trials: those of the day's present recipe, so that a rerun reproduces it, or of this machine."""
    stored = lake.manifest(stage, spec.name, day).get("cores") if lake.has(stage, spec.name, day) else None
    return detect().cores if stored is None else stored


def _composed(spec: DatasetSpec, model: str, advice: StoredAdvice | None, tuned: list[Layer]) -> Composed:
    """Compose the recipe, without the advice if it is not valid together with the other layers."""
    if advice is not None:
        try:
            return compose(spec, model, advice.layers, tuned)
        except ValidationError as error:
            why = error.errors()[0]["msg"]
            _log.warning("%s/%s: the advice does not fit the overrides and is not applied: %s", spec.name, model, why)
    try:
        return compose(spec, model, tuned=tuned)
    except ValidationError as error:
        first, path = error.errors()[0], spec.models[model].edits
        where = ".".join(map(str, first["loc"])) or "recipe"
        raise CatalogError(
            f"{path}: the edits do not fit the values {tuned[0].origin}: {where}: {first['msg']}. These values are "
            f"{flat(tuned[0].values)}: edit them as well, or remove the edit"
        ) from error


def _adopted(lake: Lake, spec: DatasetSpec, model: str, day: str) -> dict[str, Any] | None:
    """Return the manifest of the tuning that serves the day, if there is one and its recipe is used."""
    stage = tuning_results(model)
    result = lake.manifest(stage, spec.name, day) if lake.has(stage, spec.name, day) else None
    return result if result and result["adopted"] else None


def _tuned_values(
    lake: Lake, spec: DatasetSpec, model: str, before: dict[str, Any] | None, new: Mapping[str, dict[str, Any]]
) -> dict[str, Any] | None:
    """Return the tuned values with their origin: the values of the day before, updated by newer tunings."""
    for tuned_for, found in new.items():
        changed = found["changed"]
        earlier = flat(before["values"]) if before else {}
        kept = {key: earlier[key] for key in earlier if not any(_overlap(key, new) for new in changed)}
        before = {
            "origin": f"tuned for {tuned_for}, experiment {found['experiment']}",
            "values": nested(kept | changed),
            "day": tuned_for,
            "tuning": lake.digest(tuning_results(model), spec.name, tuned_for),
        }
    return before


def _not_yet_used(
    lake: Lake, spec: DatasetSpec, model: str, before: dict[str, Any] | None, day: str, result: dict[str, Any] | None
) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """Return the adopted tunings up to a day that are newer than the tuned values of the day before: manifests by day.

    A tuning can be written after its day was advised. It then takes effect on the next day, unless it changes the structure:
    the model of its day was trained without its state, and its values were tuned for that structure. Such values are the
    second result, by key.
    """
    stage = tuning_results(model)
    newest, used = (before.get("day", spec.first_day), before.get("tuning")) if before else (spec.first_day, None)
    days = [
        known
        for known in lake.days(stage, spec.name)
        if spec.first_day < known < day
        and (known > newest or (known == newest and lake.digest(stage, spec.name, known) != used))
    ]
    found = {known: _adopted(lake, spec, model, known) for known in days} | {day: result}
    adopted = {known: manifest for known, manifest in found.items() if manifest is not None}
    usable = {known: manifest for known, manifest in adopted.items() if known == day or not manifest["restarts"]}
    late = {key: value for known in adopted.keys() - usable.keys() for key, value in adopted[known]["changed"].items()}
    return usable, late


def _overlap(key: str, other: str) -> bool:
    """Whether one of two keys contains the other, so that their values exclude each other."""
    return f"{key}.".startswith(f"{other}.") or f"{other}.".startswith(f"{key}.")


def _recipe_of(lake: Lake, spec: DatasetSpec, model: str, day: str) -> Recipe | None:
    """Return the recipe of a day, or of its trained model; None if neither is in the lake with keys of this version."""
    for stage in (advisor_recipes(model), tuned_models(model)):
        if lake.has(stage, spec.name, day):
            try:
                return Recipe.model_validate(lake.manifest(stage, spec.name, day)["recipe"])
            except ValidationError:
                return None
    return None


def _origins(composed: Composed, recipe: Recipe, refused: Mapping[str, Any]) -> dict[str, str]:
    """Return the origins of the values in use; a structure that is kept has the origins of the day before."""
    refused_and_below = tuple(f"{key}." for key in refused)
    return {
        key: "the day before, whose structure is kept"
        if f"{key}.".startswith(refused_and_below)
        else composed.origins.get(key, "the day before")
        for key in flat(recipe.model_dump(mode="json"))
    }


def _report(done: AdvisedDay, name: str) -> None:
    """Log what an edit replaced, and what was not applied."""
    for each in done.overrode:
        _log.info("%s: the edits replace %s %s (%s) by %s", name, each.key, each.value, each.origin, each.by)
    if done.refused:
        _log.warning(
            "%s: not applied, since the model in use has another structure: %s. Run `make tune` or train from the first day",
            name,
            ", ".join(f"{key}: {value}" for key, value in done.refused.items()),
        )


def _text(done: AdvisedDay) -> str:
    """Return the recipe in sections, as YAML."""
    sections = to_sections(done.recipe.model_dump(mode="json")) | {SECTION: done.search.section}
    return yaml.safe_dump(sections, sort_keys=False, width=120, default_flow_style=None)


def _manifest(done: AdvisedDay, spec: DatasetSpec, declared: Recipe) -> dict[str, Any]:
    return {
        "fingerprint": spec.fingerprint,
        "digest": done.recipe.fingerprint,
        "recipe": done.recipe.model_dump(mode="json"),
        "search": done.search.section,
        "declared": declared.model_dump(mode="json"),
        "origins": dict(done.origins),
        "overrode": [asdict(each) for each in done.overrode],
        "refused": dict(done.refused),
    }
