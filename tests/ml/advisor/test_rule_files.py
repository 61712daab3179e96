"""The built-in rules, and users' files that add rules to them."""

from __future__ import annotations

from pathlib import Path

from ml.advisor.recipe_keys import of_recipe
from ml.advisor.rule_files import RULES, load_rules
from ml.advisor.rules import KINDS
from ml.recipes.recipe import RECIPES
from tests.helpers.rule_files import rule


def test_the_shipped_rules_are_about_every_kind_of_model() -> None:
    rules = load_rules()
    assert set(KINDS) == {path.stem for path in RECIPES.glob("*.yaml")}
    for kind in KINDS:
        assert sum(kind in rule.models for rule in rules.rules) > 10


def test_a_users_file_adds_rules_and_replaces_those_of_the_same_name(tmp_path: Path) -> None:
    shipped = load_rules()
    added = load_rules(rule(tmp_path))
    assert [r.name for r in added.rules] == [*(r.name for r in shipped.rules), "mine"]
    replaced = load_rules(rule(tmp_path, name="batch_size"))
    assert [r.name for r in replaced.rules] == [r.name for r in shipped.rules]
    assert next(r for r in replaced.rules if r.name == "batch_size").set == {"batch_size": 512}


def test_no_rule_and_no_recipe_key_asks_for_a_second_pass() -> None:
    text = RULES.read_text()
    assert "epochs" not in text and "passes:" not in text
    assert not any(of_recipe(key) for key in ("epochs", "passes", "schedule.epochs"))


def test_the_digest_is_that_of_the_users_files(tmp_path: Path) -> None:
    assert load_rules().digest == ""
    digest = load_rules(rule(tmp_path)).digest
    assert digest and load_rules(rule(tmp_path)).digest == digest
    assert load_rules(rule(tmp_path, name="other")).digest != digest
