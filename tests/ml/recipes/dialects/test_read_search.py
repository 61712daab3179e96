"""Files of the advisor and of SigOpt are read completely: what a recipe cannot express is refused or noted, by name."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import yaml

from ml.catalog.document import CatalogError
from ml.recipes.assignments import with_assignments
from ml.recipes.dialects.choices import Choices
from ml.recipes.dialects.read import Imported, read_search
from ml.recipes.dialects.write import as_yaml
from ml.recipes.recipe import Recipe, load_recipe
from ml.recipes.search import check_search
from tests.helpers.damage import damaged
from tests.helpers.search_files import SDA_DLRM, SDA_WIDE_DEEP, SIGOPT

STEPS = 16003  # steps of the advisor's training on Criteo's terabyte
LR = {"name": "learning_rate", "type": "double", "bounds": {"min": 0.0001, "max": 0.1}, "transformation": "log"}
WIDE_DEEP = load_recipe("wide_deep", {"model": {"deep": [128, 64, 64]}})
DLRM = load_recipe("dlrm")


def read(folder: Path, text: str | dict[str, Any], recipe: Recipe = DLRM, **choices: Any) -> Imported:
    path = folder / "experiment.yml"
    path.write_text(text if isinstance(text, str) else as_yaml(text))
    return read_search(path, recipe, Choices(**choices))


def experiment(*parameters: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {"name": "e", "parameters": list(parameters), "metrics": [{"name": "auc"}], "budget": 90} | changes


def faults(folder: Path, text: str | dict[str, Any], recipe: Recipe = DLRM, **choices: Any) -> list[str]:
    with pytest.raises(CatalogError) as error:
        read(folder, text, recipe, **choices)
    return str(error.value).splitlines()


def test_the_advisors_dlrm_file_is_read_as_far_as_a_recipe_can_express_it(tmp_path: Path) -> None:
    skip = frozenset({"learning_rate", "lamb_lr", "lr_num_decay_steps"})
    found = read(tmp_path, SDA_DLRM, skip=skip, steps=STEPS)
    by_key = {one.key: one for one in found.search.parameters}
    assert list(by_key) == ["schedule.warm_up", "schedule.decay_start", "model.embedding_dim", "model.top", "model.bottom"]
    assert by_key["model.embedding_dim"].grid == (16, 64, 128)
    assert by_key["model.top"].categorical_values[0] == "1024-1024-512-256" and len(by_key["model.top"].categorical_values) == 8
    assert by_key["model.bottom"].categorical_values == (
        "512-256",
        "256",
        "128",
        "64",
    )  # one twice in the file; the recipe's own
    bounds = by_key["schedule.warm_up"].bounds
    assert bounds and (bounds.min, bounds.max) == (0, 4500 / STEPS)  # the recipe has no warm-up
    assert [(m.name, m.objective, m.threshold) for m in found.search.metrics] == [
        ("training_time", "minimize", 10000),
        ("auc", "maximize", 0.6),
    ]
    assert (found.search.project, found.search.experiment, found.search.observation_budget) == ("dlrm", "DLRM", 1)
    check_search(found.search, DLRM)
    notes = "\n".join(found.notes)
    for said in (
        "learning_rate is left out",
        "sorted to [16, 64, 128]",
        "accuracy is read as auc",
        "512-256",
        "1 trials are few",
    ):
        assert said in notes
    assert "line 4" in notes


def test_what_the_advisors_dlrm_file_has_beyond_a_recipe_is_refused_by_name(tmp_path: Path) -> None:
    lines = faults(tmp_path, SDA_DLRM)
    assert len(lines) == 5
    for name, said in {
        "learning_rate": "SGD at a batch size of 262144",
        "lamb_lr": "LAMB",
        "lr_num_warmup_steps": "--steps",
        "lr_decay_start_step": "--steps",
        "lr_num_decay_steps": "schedule.decay_to",
    }.items():
        assert any(name in line and said in line and "(line " in line for line in lines), name


def test_the_articles_wide_and_deep_file_is_read_below_its_top_key(tmp_path: Path) -> None:
    found = read(tmp_path, SDA_WIDE_DEEP, WIDE_DEEP, steps=20, metrics={"MAP": "auc"})
    assert {one.name: one.key for one in found.search.parameters} == {
        "dnn_hidden_unit1": "model.deep.0",
        "dnn_hidden_unit2": "model.deep.1",
        "dnn_hidden_unit3": "model.deep.2",
        "deep_learning_rate": "dense_optimizer.lr",
        "linear_learning_rate": "model.wide_optimizer.lr",
        "deep_warmup_epochs": "schedule.warm_up",
        "deep_dropout": "model.dropout",
    }
    rate, dropout = found.search.parameters[3], found.search.parameters[6]
    assert rate.bounds and (rate.bounds.min, rate.bounds.max, rate.transformation) == (1e-4, 1e-1, "log")  # YAML reads text
    assert dropout.bounds and (dropout.bounds.min, dropout.bounds.max) == (0, 0.5)  # the recipe's own dropout is 0
    assert (found.search.observation_budget, found.search.parallel_bandwidth) == (5, 1)
    tried = with_assignments(WIDE_DEEP, found.search.parameters, {"dnn_hidden_unit3": 256, "deep_warmup_epochs": 0.3})
    assert tried.model.model_dump()["deep"] == (128, 64, 256) and tried.schedule.warm_up == 0.3


def test_a_file_with_more_layers_than_the_recipe_names_the_layers(tmp_path: Path) -> None:
    (line,) = faults(tmp_path, SDA_WIDE_DEEP, load_recipe("wide_deep"), steps=20, metrics={"MAP": "auc"})
    assert (
        "sigopt.parameters.2: dnn_hidden_unit3: the recipe has no key 'model.deep.2': model.deep has 2 layers, [128, 64]"
        in line
    )


def test_sigopts_experiment_is_read(tmp_path: Path) -> None:
    search = read(tmp_path, SIGOPT).search
    assert [(m.name, m.strategy, m.threshold) for m in search.metrics] == [
        ("auc", "optimize", 0.75),
        ("training_time", "optimize", 600),
        ("model_bytes", "constraint", 1e9),
    ]
    assert search.parameters[1].key == "batch_size"  # a name that is a recipe key
    assert search.parameters[2].prior == {"name": "normal", "mean": 0.0, "scale": 0.1}
    assert search.linear_constraints[0]["threshold"] == 0.1
    assert (search.experiment, search.observation_budget, search.parallel_bandwidth) == ("DLRM", 60, 2)


def test_keys_come_from_the_user_before_the_name(tmp_path: Path) -> None:
    found = read(tmp_path, experiment(LR | {"bounds": {"min": 0.01, "max": 0.1}}), keys={"learning_rate": "table_optimizer.lr"})
    assert found.search.parameters[0].key == "table_optimizer.lr"


def test_an_overlap_of_warm_up_and_decay_gets_a_constraint(tmp_path: Path) -> None:
    warm_up = {"name": "lr_num_warmup_steps", "type": "int", "bounds": {"min": 0, "max": 800}}
    decay = {"name": "lr_decay_start_step", "type": "int", "bounds": {"min": 500, "max": 1000}}
    found = read(tmp_path, experiment(warm_up, decay), steps=1000)
    (constraint,) = found.search.linear_constraints
    assert constraint["terms"] == [{"name": decay["name"], "weight": 1}, {"name": warm_up["name"], "weight": -1}]
    assert any("a constraint is added" in note for note in found.notes)


def test_constraints_on_steps_hold_for_fractions(tmp_path: Path) -> None:
    warm_up = {"name": "lr_num_warmup_steps", "type": "int", "bounds": {"min": 0, "max": 800}}
    decay = {"name": "lr_decay_start_step", "type": "int", "bounds": {"min": 500, "max": 1000}}
    terms = [{"name": decay["name"], "weight": 1}, {"name": warm_up["name"], "weight": -1}]
    text = experiment(warm_up, decay, linear_constraints=[{"type": "greater_than", "threshold": 100, "terms": terms}])
    (constraint,) = read(tmp_path, text, steps=1000).search.linear_constraints
    assert constraint == {"type": "greater_than", "threshold": 0.1, "terms": terms}
    dropout = {"name": "dropout", "type": "double", "bounds": {"min": 0, "max": 0.5}}
    mixed = [{"name": decay["name"], "weight": 1}, {"name": "dropout", "weight": -1000}]
    text = experiment(dropout, decay, linear_constraints=[{"type": "greater_than", "threshold": 0, "terms": mixed}])
    (constraint,) = read(tmp_path, text, steps=1000).search.linear_constraints
    assert constraint["terms"][0]["weight"] == 1000 and constraint["threshold"] == 0


def test_a_constraint_of_a_parameter_that_is_left_out_is_left_out_with_a_note(tmp_path: Path) -> None:
    found = read(tmp_path, SIGOPT, skip=frozenset({"warm_up"}))
    assert not found.search.linear_constraints
    assert any("linear_constraints.0: is left out, because warm_up is left out" in note for note in found.notes)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"parameters": []}, "expected a list of parameters"),
        ({"parameters": [{"type": "int"}]}, "one of them `name`"),
        ({"parameters": [LR, LR]}, "learning_rate is given twice"),
        ({"parameters": [LR | {"name": "lr_of_towers"}]}, "add `key: KEY`"),
        ({"parameters": [LR | {"name": "deep_lerning_rate"}]}, "no recipe key is known"),
        ({"parameters": [LR | {"key": "dense.lr"}]}, "the recipe has no key 'dense.lr'"),
        ({"parameters": [LR | {"boundaries": [0, 1]}]}, "unknown key"),
        ({"parameters": [LR | {"bounds": {"min": 50, "max": 5}}]}, "expected min below max, found 50 and 5"),
        ({"parameters": [LR | {"bounds": {"min": 0, "max": 1}}]}, "bounds above 0"),
        ({"parameters": [LR | {"bounds": {"min": 0.01, "max": 0.1}}]}, "the recipe's dense_optimizer.lr, 0.001, is outside"),
        ({"parameters": [{"name": "learning_rate", "type": "double"}]}, "expected bounds or grid"),
        (
            {"parameters": [{"name": "embedding_dim", "type": "int", "grid": [16, 6]}]},
            "6 is not a value of model.embedding_dim",
        ),
        ({"parameters": [{"name": "embedding_dim", "type": "int", "grid": [16]}]}, "at least two values"),
        ({"parameters": [{"name": "batch_size", "type": "double", "bounds": {"min": 1, "max": 512}}]}, "expected int"),
        ({"parameters": [{"name": "mlp_top_size", "type": "int", "bounds": {"min": 0, "max": 8}}]}, "indexes from 0 to 7"),
        (
            {"parameters": [{"name": "mlp_top_size", "key": "model.top", "type": "int", "grid": [1, 2]}]},
            "which no number replaces",
        ),
        ({"metrics": []}, "expected a list of metrics"),
        ({"metrics": ["MAP"]}, "Map it with --metric MAP=auc"),
        ({"metrics": ["auc", "accuracy"]}, "the metric auc is given twice"),
        ({"metrics": [{"name": "training_time"}]}, "expected `objective: minimize`"),
        ({"metrics": [{"name": "auc", "threshold": 0.7}]}, "hresholds"),
        ({"metrics": [{"name": "auc", "strategy": "constraint"}]}, "threshold"),
        ({"observation_budget": 5}, "observation_budget is given twice"),
        ({"budget": "many"}, "expected an integer"),
        ({"num_solutions": 3}, "leave it out with --skip num_solutions"),
        ({"type": "grid"}, "leave it out with --skip type"),
        ({"tasks": [{"name": "small", "cost": 0.1}]}, "--skip tasks"),
        ({"linear_constraints": [{"type": "equal"}]}, "less_than or greater_than"),
        (
            {"linear_constraints": [{"type": "less_than", "threshold": 1, "terms": [{"name": "x", "weight": 1}]}]},
            "no parameter x",
        ),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    assert said in "\n".join(faults(tmp_path, experiment(LR) | change))


def test_choices_that_concern_nothing_are_refused(tmp_path: Path) -> None:
    (line,) = faults(tmp_path, experiment(LR), skip=frozenset({"learning_rat"}))
    assert "nothing in the file is called learning_rat" in line


def test_all_faults_are_listed_at_once(tmp_path: Path) -> None:
    lines = faults(tmp_path, experiment({"name": "a"}, {"name": "b"}, num_solutions=2, metrics=["c"]))
    assert len(lines) == 4


def test_an_experiment_as_sigopt_shows_it_is_read(tmp_path: Path) -> None:
    shown = experiment(
        {
            "object": "parameter",
            "name": "embedding_dim",
            "type": "int",
            "bounds": {"object": "bounds", "min": 8, "max": 32},
            "grid": [8, 16, 32],
            "categorical_values": None,
            "transformation": "none",
            "default_value": None,
            "conditions": {},
            "prior": None,
        },
        {
            "name": "interaction",
            "key": "model.interaction",
            "type": "categorical",
            "categorical_values": [{"object": "categorical_value", "name": name, "enum_index": 1} for name in ("cat", "dot")],
        },
        num_solutions=None,
        conditionals=[],
        type="offline",
    )
    found = read(tmp_path, shown)
    assert found.search.parameters[0].grid == (8, 16, 32)
    assert found.search.parameters[1].categorical_values == ("cat", "dot")
    assert yaml.safe_load((tmp_path / "experiment.yml").read_text())["parameters"][0]["bounds"]["min"] == 8


@pytest.mark.parametrize("seed", range(4))
def test_damaged_files_are_refused_and_never_crash(tmp_path: Path, seed: int) -> None:
    """One value of a file is replaced by a value of another type, or removed."""
    texts = (SDA_DLRM, SDA_WIDE_DEEP, SIGOPT)
    draw = random.Random(seed)
    refused = 0
    for _ in range(40):
        data = damaged(yaml.safe_load(draw.choice(texts)), draw)
        try:
            read(tmp_path, yaml.safe_dump(data), WIDE_DEEP if "sigopt" in data else DLRM, steps=20000, metrics={"MAP": "auc"})
        except CatalogError as error:
            refused += 1
            assert str(tmp_path) in str(error)
    assert refused
