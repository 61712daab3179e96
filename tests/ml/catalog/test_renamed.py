"""Old keys are refused, and the message names the new one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from ml.catalog.load import CATALOG, CatalogError, load_dataset
from ml.catalog.renamed import RENAMED
from ml.recipes.recipe import RECIPES, load_recipe

# old key -> a recipe that had it, where, and a value
PLACES: dict[str, tuple[str, tuple[str, ...], Any]] = {
    "admit_after": ("dlrm", ("tables", "default"), 10),
    "correct_frequency": ("two_tower", ("model",), True),
    "correct_sampling": ("dlrm", (), True),
    "leave_out": ("dlrm", (), ["user"]),
}


ENTRY_KEYS = {"distribution"}  # old keys of catalog entries


def nested(keys: tuple[str, ...], value: Any) -> Any:
    return {keys[0]: nested(keys[1:], value)} if keys else value


def test_every_renamed_key_is_tried() -> None:
    assert set(PLACES) | ENTRY_KEYS == set(RENAMED)


@pytest.mark.parametrize("old", PLACES)
def test_an_old_key_is_refused_with_the_new_one_and_the_new_one_is_known(old: str) -> None:
    recipe, keys, value = PLACES[old]
    kind = {"kind": "collisionless"} if keys == ("tables", "default") else {}
    with pytest.raises(CatalogError, match=rf"recipe\.overrides .*{old}: {old} is now {RENAMED[old]}$"):
        load_recipe(recipe, nested(keys, kind | {old: value}))
    load_recipe(recipe, nested(keys, kind | {RENAMED[old]: value}))


@pytest.mark.parametrize("old", PLACES)
def test_a_recipe_file_with_an_old_key_is_refused_by_its_name(tmp_path: Path, old: str) -> None:
    recipe, keys, value = PLACES[old]
    data = yaml.safe_load((RECIPES / f"{recipe}.yaml").read_text())
    at = data
    for key in keys:
        at = at.setdefault(key, {})
    at[old] = value
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(data))
    with pytest.raises(CatalogError, match=rf"mine\.yaml: .*{old} is now {RENAMED[old]}"):
        load_recipe("mine", folder=tmp_path)


def test_an_old_key_of_a_dataset_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RENAMED, "days_of_demo", "demo_days")
    text = (CATALOG / "synthetic.yaml").read_text() + "\ndays_of_demo: 3\n"
    (tmp_path / "synthetic.yaml").write_text(text)
    with pytest.raises(CatalogError, match=r"synthetic\.yaml: days_of_demo: days_of_demo is now demo_days \(line \d+\)"):
        load_dataset(tmp_path / "synthetic.yaml")


def test_the_former_key_of_the_draw_of_negatives_is_refused(tmp_path: Path) -> None:
    text = (CATALOG / "globo.yaml").read_text().replace("window_hours: 6,", "window_hours: 6, KEY: popularity,")
    file = tmp_path / "globo.yaml"
    file.write_text(text.replace("KEY", "distribution"))
    with pytest.raises(CatalogError, match=r"label\.negatives\.distribution: distribution is now draw \(line \d+\)"):
        load_dataset(file)
    file.write_text(text.replace("KEY", "draw"))
    negatives = load_dataset(file).label.negatives
    assert negatives is not None and negatives.draw == "popularity"
