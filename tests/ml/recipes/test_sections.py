"""A recipe in sections and the flat recipe hold the same keys."""

import pytest

from ml.catalog.spec import DatasetSpec
from ml.recipes.recipe import Recipe, load_recipe, recipe_of
from ml.recipes.sections import from_sections, in_sections, to_sections


def test_sections_hold_every_key_of_every_recipe(catalog: dict[str, DatasetSpec]) -> None:
    for spec, model in ((entry, name) for entry in catalog.values() for name in entry.models):
        data = recipe_of(spec, model).model_dump(mode="json")
        sections = to_sections(data)
        assert list(sections) == ["model", "training"]
        assert from_sections(sections) == data
        assert Recipe.model_validate(from_sections(sections)) == recipe_of(spec, model)


@pytest.mark.parametrize("key", [*Recipe.model_fields])
def test_the_path_of_a_key_leads_to_its_value(key: str) -> None:
    data = load_recipe("dlrm").model_dump(mode="json")
    found = to_sections(data)
    for step in in_sections([key]):
        found = found[str(step)]
    expected = {**data["model"], "tables": data["tables"], "exclude_features": []} if key == "model" else data[key]
    assert found == expected


def test_a_missing_section_adds_nothing() -> None:
    assert from_sections({"training": {"seed": 3}}) == {"seed": 3}
    assert from_sections({"model": {"tables": {"init_scale": 1.0}}}) == {"tables": {"init_scale": 1.0}}
    assert to_sections({"seed": 3}) == {"training": {"seed": 3}}
