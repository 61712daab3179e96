"""Edits of a recipe: values, removals, parameters, and errors that name the key in the file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from ml.catalog.load import CatalogError, load_dataset
from ml.recipes.edits import edited_parameters, flat, patch, read_edits
from ml.recipes.recipe import recipe_of
from tests.helpers.paths import ROOT


@pytest.fixture
def edits(tmp_path: Path) -> Path:
    (tmp_path / "criteo.yaml").write_text((ROOT / "catalog" / "criteo.yaml").read_text())
    path = tmp_path / "recipes" / "criteo" / "dlrm.yaml"
    path.parent.mkdir(parents=True)
    return path


def recipe(edits: Path, text: str, model: str = "dlrm") -> Any:
    edits.write_text(text)
    return recipe_of(load_dataset(edits.parents[2] / "criteo.yaml"), model)


def test_values_of_both_sections_are_changed_and_other_models_are_not(edits: Path) -> None:
    text = (
        "model: {top: [32], tables: {features: {'C{1..2}': {kind: static, rows: 8}}}}\ntraining: {dense_optimizer: {lr: 0.5}}"
    )
    found = recipe(edits, text)
    assert (found.model.top, found.dense_optimizer.lr, found.tables.of("C2").kind) == ((32,), 0.5, "static")
    assert recipe(edits, text, "deepfm").dense_optimizer.lr != 0.5


def test_null_removes_a_key_so_that_its_default_applies(edits: Path) -> None:
    assert recipe(edits, "training: {dense_optimizer: {clip_norm: null, weight_decay: null}}").dense_optimizer.clip_norm is None


def test_a_table_or_a_key_of_another_kind_can_be_removed_whether_or_not_it_is_there(edits: Path) -> None:
    tables, optimizer = "{features: {'C{1..3}': null}}", "{kind: adagrad, lr: 0.1, weight_decay: null}"
    assert (
        recipe(edits, f"model: {{tables: {tables}}}\ntraining: {{dense_optimizer: {optimizer}}}").dense_optimizer.kind
        == "adagrad"
    )


def test_overrides_of_a_call_take_precedence_over_edits(edits: Path) -> None:
    edits.write_text("training: {seed: 5, batch_size: 100}")
    found = recipe_of(load_dataset(edits.parents[2] / "criteo.yaml"), "dlrm", {"seed": 7})
    assert (found.seed, found.batch_size) == (7, 100)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("training: {batch_size: none}", r"dlrm\.yaml: training\.batch_size: expected an integer.*line 1"),
        ("training:\n  bach_size: 3", r"dlrm\.yaml: training\.bach_size: .*line 2"),
        ("model:\n  tables:\n    init_scale: -1", r"model\.tables\.init_scale: .*at least 0.*line 3"),
        ("model:\n  dropuot: 0.1", r"yaml: model\.dropuot: unknown key, found 0\.1 \(line 2\)"),
        ("model: {embedding_dim: 7}", r"model\.dlrm\.embedding_dim|model\.embedding_dim"),
        ("trainin: {seed: 1}", r"trainin: no such section; expected model, training, sigopt, wishes \(line 1\)"),
        ("training: 3", r"training: expected keys with values, found int"),
        ("training: {seed: 1", r"not valid YAML"),
        (
            "model:\n  dropuot: null",
            r"dlrm\.yaml: model\.dropuot: there is no such key to remove; did you mean 'dropout'\? \(line 2\)",
        ),
        (
            "training: {dense_optimizer: {clipnorm: null}}",
            r"training\.dense_optimizer\.clipnorm: there is no such key to remove",
        ),
        ("model: {tables: {sizes: null}}", r"model\.tables\.sizes: there is no such key to remove"),
        ("training: {schedule: {warm_up: 0.9, decay_start: 0.2}}", r"training\.schedule: .*warm_up 0.9 ends after"),
    ],
)
def test_a_fault_names_the_file_the_key_and_the_line(edits: Path, text: str, message: str) -> None:
    with pytest.raises(CatalogError, match=message):
        recipe(edits, text)


def test_no_file_is_no_edits(tmp_path: Path) -> None:
    assert read_edits(None) is None
    assert read_edits(tmp_path / "dlrm.yaml") is None


def test_the_section_of_tuning_is_kept_apart(edits: Path) -> None:
    edits.write_text("sigopt: {observation_budget: 3}")
    found = read_edits(edits)
    assert found is not None
    assert (found.values, found.sigopt) == ({}, {"observation_budget": 3})


LEAVES = st.integers() | st.lists(st.integers(), max_size=2)
MAPPINGS = st.recursive(LEAVES, lambda below: st.dictionaries(st.sampled_from("abc"), below, min_size=1, max_size=3))
NESTED = st.dictionaries(st.sampled_from("abc"), MAPPINGS, max_size=3)


@given(NESTED, NESTED)
def test_a_patch_holds_every_edited_value_and_keeps_the_others(base: dict[str, Any], edits: dict[str, Any]) -> None:
    before, after = flat(base), flat(patch(base, edits))
    assert flat(edits).items() <= after.items() if edits else after == before
    for key in before.keys() - after.keys():
        assert any(edit == key or edit.startswith(f"{key}.") or key.startswith(f"{edit}.") for edit in flat(edits))
    assert patch(patch(base, edits), edits) == patch(base, edits)


def test_another_kind_replaces_a_mapping() -> None:
    base = {"model": {"kind": "dlrm", "top": [1]}, "table": {"kind": "collisionless", "min_count": 2}}
    assert patch(base, {"table": {"kind": "static", "rows": 4}})["table"] == {"kind": "static", "rows": 4}
    assert patch(base, {"model": {"top": [2]}})["model"] == {"kind": "dlrm", "top": [2]}


def test_parameters_are_edited_by_name() -> None:
    base = [
        {"name": "lr", "key": "dense_optimizer.lr", "type": "double", "bounds": {"min": 0.1, "max": 1}},
        {"name": "seed", "key": "seed", "type": "int", "grid": [1, 2]},
    ]
    edits = yaml.safe_load("[{name: lr, bounds: {min: 0.2, max: 1}}, {name: seed, remove: true}, {name: new, key: batch_size}]")
    assert edited_parameters(base, edits) == [
        {"name": "lr", "key": "dense_optimizer.lr", "type": "double", "bounds": {"min": 0.2, "max": 1}},
        {"name": "new", "key": "batch_size"},
    ]
    assert edited_parameters(base, [{"name": "seed", "bounds": {"min": 0, "max": 9}}])[1] == {
        "name": "seed",
        "key": "seed",
        "type": "int",
        "bounds": {"min": 0, "max": 9},
    }


def test_a_parameter_replaces_another_for_the_same_key() -> None:
    base = [{"name": "dense_lr", "key": "dense_optimizer.lr", "type": "double"}, {"name": "seed", "key": "seed", "type": "int"}]
    edit = {"name": "rate", "key": "dense_optimizer.lr", "type": "double", "bounds": {"min": 0.001, "max": 0.1}}
    assert edited_parameters(base, [edit]) == [base[1], edit]
    assert edited_parameters(base, [edit | {"name": "dense_lr"}]) == [edit | {"name": "dense_lr"}, base[1]]
