"""The section `sigopt` with edits of the schedule: every trial is a valid recipe, whatever the edits fix."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest

from ml.advisor.search_section import ADVISED, SearchSection, search_section
from ml.catalog.load import CatalogError, load_dataset
from ml.recipes.assignments import with_assignments
from ml.recipes.recipe import Recipe, recipe_of


def section_of(folder: Path, text: str) -> tuple[Recipe, SearchSection]:
    """Return the recipe and the section of a model with edits."""
    (folder / "recipes" / "criteo" / "dlrm.yaml").write_text(text)
    spec = load_dataset(folder / "criteo.yaml")
    recipe = recipe_of(spec, "dlrm")
    return recipe, search_section(spec, "dlrm", recipe, 100_000)


def bounds_of(section: SearchSection) -> dict[str, tuple[float, float]]:
    """Return the bounds of the schedule's parameters."""
    parameters = [one for one in section.search.parameters if one.name in ("warm_up", "decay_start")]
    return {one.name: (one.bounds.min, one.bounds.max) for one in parameters if one.bounds}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("training: {schedule: {decay_start: 0.1}}", {"warm_up": (0, 0.1)}),
        ("training: {schedule: {decay_start: 0.8}}", {"warm_up": (0, 0.3)}),
        ("training: {schedule: {warm_up: 0.5}}", {"decay_start": (0.5, 1)}),
        ("training: {schedule: {warm_up: 0.1}}", {"decay_start": (0.3, 1)}),
        ("training: {schedule: {decay_start: 0}}", {}),
        ("training: {schedule: {warm_up: 1, decay_start: 1}}", {}),
    ],
)
def test_a_fixed_end_of_the_schedule_bounds_the_other(
    criteo: Path, text: str, expected: dict[str, tuple[float, float]]
) -> None:
    recipe, section = section_of(criteo, text)
    assert bounds_of(section) == expected
    assert not section.search.linear_constraints
    for values in product(*expected.values()):
        with_assignments(recipe, section.search.parameters, dict(zip(expected, values, strict=True)))
    for name in expected:
        assert section.origins[f"sigopt.parameters.{name}.bounds.max"] == ADVISED


def test_an_end_that_is_not_tuned_bounds_the_other(criteo: Path) -> None:
    text = "training: {schedule: {decay_start: 0.2}}\nsigopt: {parameters: [{name: decay_start, remove: true}]}"
    assert bounds_of(section_of(criteo, text)[1]) == {"warm_up": (0, 0.2)}


def test_both_ends_are_searched_under_a_constraint(criteo: Path) -> None:
    text = "training: {schedule: {decay_start: 0.1}}\nsigopt: {parameters: [{name: decay_start, bounds: {min: 0.1, max: 1}}]}"
    _, section = section_of(criteo, text)
    assert bounds_of(section) == {"warm_up": (0, 0.3), "decay_start": (0.1, 1)}
    assert len(section.search.linear_constraints) == 1


def test_a_fixed_key_is_tuned_between_bounds_that_the_edits_give(criteo: Path) -> None:
    text = "training: {schedule: {warm_up: 0.1}}\nsigopt: {parameters: [{name: warm_up, key: schedule.warm_up}]}"
    with pytest.raises(CatalogError, match="parameter 'warm_up' of type double: expected bounds or grid, found none"):
        section_of(criteo, text)


def test_bounds_of_the_edits_take_precedence(criteo: Path) -> None:
    text = "training: {schedule: {decay_start: 0.1}}\nsigopt: {parameters: [{name: warm_up, bounds: {min: 0, max: 0.05}}]}"
    assert bounds_of(section_of(criteo, text)[1]) == {"warm_up": (0, 0.05)}
