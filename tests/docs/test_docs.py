"""Code and commands of the documentation run, or are only checked for a reason stated here or in `tests.docs.commands`."""

from __future__ import annotations

import csv
import json
import re
from functools import cache
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import pytest
import yaml

from ml.advisor.rule_files import load_rules
from ml.catalog.load import load_catalog, load_dataset
from ml.catalog.spec import DatasetSpec
from ml.models.build import build_model
from ml.recipes.dialects.read import read_search
from ml.recipes.edits import read_edits
from ml.recipes.recipe import RECIPES, Recipe, load_recipe, merge, recipe_of, with_edits
from ml.recipes.search import Search, check_search
from ml.recipes.sections import SECTIONS, WISHES
from ml.recipes.wishes import WishesSection
from ml.schema import FeatureSchema
from tests.docs.commands import COMMANDS, MAKEFILE, check_target, commands_of
from tests.helpers.markdown import Block, blocks_of, inline_code, pages
from tests.helpers.paths import ROOT
from tests.helpers.workplace import Workplace

BLOCKS = [block for page in pages() for block in blocks_of(page)]
# Listings (`text`) and `output` are tested in test_output.py.
LANGUAGES = {"python", "sh", "yaml", "json", "csv", "text", "output"}
SHOP = next(block for block in BLOCKS if block.text.startswith("name: shop"))


def of(*languages: str) -> list[Block]:
    return [block for block in BLOCKS if block.language in languages]


def test_every_block_is_of_a_kind_that_is_tested() -> None:
    assert not [str(block) for block in BLOCKS if block.language not in LANGUAGES]


@pytest.mark.slow
@pytest.mark.parametrize("page", sorted({block.page for block in of("python", "sh")}))
def test_code_and_commands_of_a_page_run_in_order(page: str, at_work: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load_catalog, "__defaults__", (at_work.catalog,))
    names: dict[str, Any] = {"__name__": "page"}
    for block in (block for block in of("python", "sh") if block.page == page):
        if block.language == "python":
            exec(compile("\n" * (block.line - 1) + block.text, page, "exec"), names)
            continue
        for variables, words in commands_of(block.text):
            assert set(variables) <= known_variables(), f"{block}: {variables}"
            assert words[0] in COMMANDS, f"{block}: {words}: a new kind of command needs an entry in tests/docs/commands.py"
            COMMANDS[words[0]](words, at_work)


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)
def test_targets_and_variables_in_the_text_exist(page: Path) -> None:
    for code in inline_code(page):
        words = code.split()
        if words[:1] == ["make"] and len(words) > 1 and "=" not in words[1]:
            check_target(words[1:])
        unknown = set(re.findall(r"\bEVERGREEN_[A-Z_]+", code)) - known_variables()
        assert not unknown


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)
def test_paths_and_names_of_python_in_the_text_exist(page: Path) -> None:
    of_pages = {f"catalog/{yaml.safe_load(block.text)['name']}.yaml" for block in of("yaml") if block.text.startswith("name: ")}
    for code in inline_code(page):
        if re.fullmatch(r"(ml|assets|orchestration|tests|benchmarks|docs|catalog|scripts)/[\w/.-]*", code):
            assert (ROOT / code).exists() or code in of_pages, code
        elif re.fullmatch(r"ml(\.\w+)+", code):
            assert resolve_name(code) is not None


@cache
def known_variables() -> set[str]:
    """Environment variables that the code reads."""
    files = [file for layer in ("ml", "assets", "orchestration") for file in (ROOT / layer).rglob("*.py")]
    source = "\n".join(file.read_text() for file in [*files, ROOT / "tests" / "conftest.py"]) + MAKEFILE
    return set(re.findall(r"\bEVERGREEN_[A-Z_]+", source))


@pytest.mark.parametrize("block", of("yaml"), ids=str)
def test_yaml_is_accepted_by_the_loader_and_by_the_models(block: Block, tmp_path: Path) -> None:
    """A block is a catalog entry or keys of one, which replace the shop's; a recipe, changes, edits, a search, or rules."""
    written = yaml.safe_load(block.text)
    if "extends" in written:
        (tmp_path / "ours.yaml").write_text(block.text)
        build_model(load_recipe("ours", folder=tmp_path), FeatureSchema.of(shop(tmp_path)))
    elif set(written) == set(SECTIONS):
        (tmp_path / "dlrm.yaml").write_text(block.text)
        edits = read_edits(tmp_path / "dlrm.yaml")
        assert edits is not None
        listed = [one for one in edits.sigopt["parameters"] if not one.get("remove")]
        search = Search.model_validate({**edits.sigopt, "parameters": listed})
        shipped = load_catalog(ROOT / "catalog").values()
        recipes = [recipe_of(spec, "dlrm") for spec in shipped if "dlrm" in spec.models]
        assert recipes
        for recipe in (load_recipe("dlrm"), *recipes):
            check_search(search, with_edits(recipe, edits))
    elif set(written) == {WISHES}:
        WishesSection.model_validate(written[WISHES])
    elif "budget" in written:
        (tmp_path / "experiment.yml").write_text(block.text)
        assert len(read_search(tmp_path / "experiment.yml", load_recipe("dlrm")).search.parameters) == len(
            written["parameters"]
        )
    elif "rules" in written:
        (tmp_path / "ours.yaml").write_text(block.text)
        assert {rule["name"] for rule in written["rules"]} <= {rule.name for rule in load_rules(tmp_path / "ours.yaml").rules}
    elif set(written) <= set(DatasetSpec.model_fields):
        spec = load(written if "name" in written else replaced(yaml.safe_load(SHOP.text), written), tmp_path)
        for model in spec.models:
            build_model(recipe_of(spec, model), FeatureSchema.of(spec))
    else:
        assert set(written) <= set(Recipe.model_fields)
        recipe = Recipe.model_validate(merge(load_recipe("dlrm").model_dump(mode="json"), written))
        build_model(recipe, FeatureSchema.of(shop(tmp_path)))


def replaced(entry: dict[str, Any], keys: dict[str, Any]) -> dict[str, Any]:
    """An entry with some of its top-level keys replaced. If the label is replaced, expectations are removed."""
    return {**entry, **keys} | ({"expectations": {}} if "label" in keys else {})


def load(entry: dict[str, Any], folder: Path) -> DatasetSpec:
    path = folder / f"{entry['name']}.yaml"
    path.write_text(yaml.safe_dump(entry, sort_keys=False))
    return load_dataset(path)


def shop(folder: Path) -> DatasetSpec:
    return load(yaml.safe_load(SHOP.text), folder)


@pytest.mark.parametrize("block", of("json", "csv"), ids=str)
def test_data_has_the_columns_of_the_entry_beside_it(block: Block, tmp_path: Path) -> None:
    """`tests/orchestration/test_own_logs.py` runs these lines from the landing folder to a report."""
    spec, lines = shop(tmp_path), block.text.splitlines()
    rows = [json.loads(line) for line in lines] if block.language == "json" else list(csv.DictReader(lines))
    columns = spec.source.columns if block.language == "json" else spec.join[0].source.columns
    assert [set(row) for row in rows] == [set(columns)] * 2


def test_the_version_is_that_of_the_changelog() -> None:
    version = re.search(r'^version = "(.*)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    newest = re.search(r"^## (\d+\.\d+\.\d+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert version and newest and version[1] == newest[1]


def test_recipes_of_the_repository_are_documented() -> None:
    assert {path.stem for path in RECIPES.glob("*.yaml")} <= set(inline_code(ROOT / "docs" / "models.md"))
