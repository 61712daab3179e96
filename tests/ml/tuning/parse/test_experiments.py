from __future__ import annotations

import json
from typing import Any

import pytest

from ml.tuning import render
from ml.tuning.definition import LinearConstraint, Prior
from ml.tuning.errors import ApiError
from ml.tuning.experiment import Experiment
from ml.tuning.parse.experiments import experiment, update
from ml.tuning.parse.parameters import space
from ml.tuning.values import Reader
from tests.helpers.tuning import DIMENSION, INTERACTION, LAYERS, LEARNING_RATE, definition

DROPOUT = {"name": "dropout", "type": "double", "bounds": {"min": 0, "max": 0.5}}
AUC, SECONDS = {"name": "auc"}, {"name": "seconds", "objective": "minimize"}


def parsed(**changes: Any) -> Experiment:
    return experiment(json.loads(json.dumps(definition(**changes))))


def problem(**changes: Any) -> str:
    with pytest.raises(ApiError) as refusal:
        experiment(definition(**changes))
    assert refusal.value.status == 400
    return refusal.value.message


def test_everything_that_a_space_can_have() -> None:
    found = parsed(
        parameters=[
            {**DROPOUT, "prior": {"name": "normal", "mean": 0.1, "scale": 0.2}, "default_value": 0.3},
            {
                "name": "share",
                "type": "double",
                "bounds": {"min": 0, "max": 1},
                "prior": {"name": "beta", "shape_a": 1, "shape_b": 2},
            },
            DIMENSION,
            LEARNING_RATE,
            {"name": "warmup", "type": "int", "bounds": {"min": 10, "max": 500}},
            {"name": "decay", "type": "int", "bounds": {"min": 100, "max": 900}},
            {**INTERACTION, "conditions": {"arch": "deep"}},
        ],
        conditionals=[{"name": "arch", "values": ["deep", "wide"]}],
        linear_constraints=[
            {
                "type": "greater_than",
                "threshold": 0,
                "terms": [{"name": "decay", "weight": 1}, {"name": "warmup", "weight": -1}],
            }
        ],
    )
    dropout, share, dimension, rate, _, _, interaction = found.space.parameters
    assert (dropout.low, dropout.high, dropout.prior, dropout.default) == (0, 0.5, Prior("normal", 0.1, 0.2), 0.3)
    assert share.prior == Prior("beta", 1, 2)
    assert (dimension.grid, dimension.low, dimension.high) == ((16, 64, 128), 16, 128)
    assert rate.log
    assert (interaction.categories, interaction.conditions) == (("dcn", "original"), {"arch": ("deep",)})
    assert found.space.constraints == (LinearConstraint({"decay": 1, "warmup": -1}, 0, "greater_than"),)
    shown = json.loads(json.dumps(render.experiment(found, {})))
    again = experiment({key: shown[key] for key in ("name", "parameters", "conditionals", "linear_constraints", "metrics")})
    assert (again.space, again.metrics) == (found.space, found.metrics)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"bounds": {"min": 0.5, "max": 0.1}}, "bounds.max: must be greater than min, which is 0.5"),
        ({"bounds": {"min": 0.5, "max": 0.5}}, "bounds.max: must be greater than min"),
        ({"bounds": {"min": 0, "max": float("inf")}}, "bounds.max: must be a finite number"),
        ({"bounds": {"min": 0, "max": True}}, "bounds.max: must be a number, not a boolean"),
        ({"bounds": {"min": 0}}, "bounds.max: is required"),
        ({"bounds": {"min": 0, "max": 1, "step": 1}}, "bounds.step: is not a known key"),
        ({"bounds": [0, 1]}, "bounds: must be an object, not a list"),
        ({"bounds": None}, "bounds: is required"),
        ({"type": "float"}, "type: must be one of double, int, categorical, not float"),
        ({"type": "int"}, "bounds.max: must be an integer, not 0.5"),
        ({"name": ""}, "name: must not be empty"),
        ({"name": "x" * 101}, "name: must have at most 100 characters, but has 101"),
        ({"name": None}, "name: is required"),
        ({"transformation": "log"}, "bounds.min: must be positive for the log transformation"),
        ({"transformation": "exp"}, "transformation: must be one of log, none, not exp"),
        ({"grid": [1]}, "grid: must have at least 2 values"),
        ({"grid": [1, 1, 2]}, "grid: cannot have duplicate values"),
        ({"grid": [1, 2]}, "bounds: a parameter with a grid cannot have bounds"),
        ({"categorical_values": ["a", "b"]}, "categorical_values: a numerical parameter cannot have categorical_values"),
        ({"prior": {"name": "normal", "mean": 2, "scale": 1}}, "prior.mean: must be within the bounds"),
        ({"prior": {"name": "normal", "mean": 0, "scale": 0}}, "prior.scale: must be positive"),
        (
            {"prior": {"name": "normal", "mean": 0, "scale": 1, "shape_a": 1}},
            "prior.shape_a: does not belong to a normal prior",
        ),
        ({"prior": {"name": "beta", "shape_a": 1}}, "prior.shape_b: is required"),
        ({"prior": {"name": "uniform"}}, "prior.name: must be one of normal, beta"),
        ({"conditions": {"arch": ["deep"]}}, "conditions.arch: there is no conditional with this name"),
        ({"default_value": "x"}, "default_value: must be a number, not a string"),
        ({"lower": 1}, "lower: is not a known key"),
    ],
)
def test_invalid_parameters(change: dict[str, Any], text: str) -> None:
    assert problem(parameters=[LAYERS, {**DROPOUT, **change}]).startswith(f"parameters[1].{text}")


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"categorical_values": ["a"]}, "categorical_values: a categorical parameter must have at least 2 values"),
        ({"categorical_values": ["a", "a"]}, "categorical_values: duplicate value name a"),
        ({"categorical_values": ["a", "b" * 51]}, "categorical_values[1]: must have at most 50 characters"),
        ({"categorical_values": ["a", 1]}, "categorical_values[1]: must be a string, not a number"),
        ({"bounds": {"min": 0, "max": 1}}, "bounds: a categorical parameter cannot have bounds"),
        ({"grid": ["a", "b"]}, "grid: a categorical parameter cannot have a grid"),
        ({"transformation": "log"}, "transformation: is only valid for parameters of type double"),
        ({"prior": {"name": "normal"}}, "prior: only a double parameter"),
    ],
)
def test_invalid_categorical_parameters(change: dict[str, Any], text: str) -> None:
    assert problem(parameters=[{**INTERACTION, **change}]).startswith(f"parameters[0].{text}")


@pytest.mark.parametrize(
    ("metrics", "text"),
    [
        ([], "metrics: must contain a metric"),
        ([AUC, AUC], "metrics[0].name: duplicate metric name auc"),
        ([{**AUC, "threshold": 0.8}], "metrics[0].threshold: Thresholds are only supported for experiments with more than one"),
        ([{**AUC, "strategy": "constraint"}], "metrics[0].threshold: is required for constraint metrics"),
        (
            [AUC, {**SECONDS, "strategy": "store", "threshold": 1}],
            "metrics[1].threshold: cannot be specified on stored metrics",
        ),
        ([AUC, SECONDS, {"name": "loss"}], "metrics: can have at most 2 optimized metrics, but has 3"),
        (
            [{"name": str(n), "strategy": "constraint", "threshold": 0} for n in range(5)],
            "metrics: can have at most 4 constraint metrics, but has 5",
        ),
        ([{"name": str(n), "strategy": "store"} for n in range(51)], "metrics: can have at most 50 metrics, but has 51"),
        ([{**AUC, "strategy": "store"}], "metrics: must have optimized or constraint metrics"),
        ([AUC, {"objective": "minimize"}], "metrics[1].name: is required"),
        ([{**AUC, "objective": "max"}], "metrics[0].objective: must be one of maximize, minimize, not max"),
        ([AUC, SECONDS], "observation_budget: is required for an experiment with more than one optimized metric"),
        (
            [AUC, {**SECONDS, "strategy": "constraint", "threshold": 1}],
            "observation_budget: is required for an experiment with constraint metrics",
        ),
    ],
)
def test_invalid_metrics(metrics: list[dict[str, Any]], text: str) -> None:
    assert problem(metrics=metrics).startswith(text)


def test_metrics_are_ordered_by_name_and_can_be_names() -> None:
    found = parsed(
        metrics=[SECONDS, "auc", {"name": "memory", "strategy": "constraint", "threshold": 16}], observation_budget=5
    )
    assert [metric.name for metric in found.metrics] == ["auc", "memory", "seconds"]
    assert [metric.name for metric in found.optimized] == ["auc", "seconds"]


def constraint(*terms: tuple[str, float], threshold: float = 1, kind: str = "less_than") -> dict[str, Any]:
    return {"type": kind, "threshold": threshold, "terms": [{"name": name, "weight": weight} for name, weight in terms]}


BOTH = (("dropout", 1), ("decay", 1))


@pytest.mark.parametrize(
    ("constraints", "text"),
    [
        ([constraint(("momentum", 1))], "linear_constraints[0].terms[0].name: there is no parameter momentum"),
        (
            [constraint(("interaction", 1))],
            "linear_constraints[0].terms[0].name: a constraint cannot be defined on a categorical",
        ),
        ([constraint(("learning_rate", 1))], "linear_constraints[0].terms[0].name: a constraint cannot be defined on a log-"),
        ([constraint(("dimension", 1))], "linear_constraints[0].terms[0].name: a constraint cannot be defined on a grid"),
        ([constraint(("layers", 1), ("dropout", 1))], "linear_constraints[0].terms: cannot mix integers and doubles"),
        ([constraint(("layers", 1), ("layers", 1))], "linear_constraints[0].terms[1].name: layers occurs twice"),
        ([constraint(("layers", 0))], "linear_constraints[0].terms: must have at least two terms"),
        ([constraint(("dropout", 1), ("momentum", 0))], "linear_constraints[0].terms[1].name: there is no parameter momentum"),
        ([constraint(("dropout", 1), ("decay", 0))], "linear_constraints[0].terms: must have at least two terms"),
        ([constraint(("dropout", 1), kind="equals")], "linear_constraints[0].type: must be one of less_than, greater_than"),
        (
            [constraint(*BOTH, threshold=0.1), constraint(*BOTH, threshold=0.2, kind="greater_than")],
            "linear_constraints: no values between the bounds satisfy them all",
        ),
        (  # only an edge is left, which random points do not meet
            [constraint(*BOTH, threshold=0.5), constraint(*BOTH, threshold=0.5, kind="greater_than")],
            "linear_constraints: no values between the bounds satisfy them all, except on their edges",
        ),
        (
            [constraint(("layers", 1), ("width", 1), threshold=1)],
            "linear_constraints: no values between the bounds satisfy them all",
        ),
    ],
)
def test_invalid_constraints(constraints: list[dict[str, Any]], text: str) -> None:
    parameters = [
        LAYERS,
        DROPOUT,
        LEARNING_RATE,
        DIMENSION,
        INTERACTION,
        {**DROPOUT, "name": "decay"},
        {**LAYERS, "name": "width"},
    ]
    assert problem(parameters=parameters, linear_constraints=constraints).startswith(text)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"name": None}, "name: is required"),
        ({"name": 7}, "name: must be a string, not a number"),
        ({"parameters": []}, "parameters: an experiment must have at least one parameter"),
        ({"parameters": [LAYERS, LAYERS]}, "parameters: duplicate parameter name layers"),
        (
            {"conditionals": [{"name": "layers", "values": ["a", "b"]}]},
            "parameters[1].name: there is a conditional named layers",
        ),
        ({"conditionals": [{"name": "arch", "values": ["a"]}]}, "conditionals[0].values: must have at least 2 values"),
        ({"type": "grid"}, "parameters[0].grid: is required in a grid search"),
        ({"type": "grid", "parameters": [DIMENSION], "observation_budget": 4}, "observation_budget: does not match the number"),
        ({"observation_budget": 0}, "observation_budget: must be at least 1, not 0"),
        ({"observation_budget": 1.5}, "observation_budget: must be an integer, not 1.5"),
        ({"budget": 5}, "budget: is not a known key"),
        ({"parallel_bandwidth": 0}, "parallel_bandwidth: must be at least 1"),
        ({"num_solutions": 2}, "observation_budget: is required for an experiment with more than one solution"),
        ({"num_solutions": 6, "observation_budget": 5}, "num_solutions: must not exceed observation_budget, which is 5"),
        ({"num_solutions": 0, "observation_budget": 5}, "num_solutions: must be at least 1, not 0"),
        (
            {"num_solutions": 2, "observation_budget": 5, "metrics": [{"name": "auc"}, {"name": "seconds"}]},
            "num_solutions: more than one solution requires exactly one optimized metric",
        ),
        (
            {"num_solutions": 2, "observation_budget": 5, "conditionals": [{"name": "arch", "values": ["a", "b"]}]},
            "num_solutions: conditional experiments cannot have more than one solution",
        ),
        (
            {
                "num_solutions": 2,
                "observation_budget": 5,
                "tasks": [{"name": "full", "cost": 1}, {"name": "cheap", "cost": 0.1}],
            },
            "tasks: cannot be combined with two optimized metrics, constraint metrics or several solutions",
        ),
        ({"metadata": {"a": "x" * 501}}, "metadata.a: must have at most 500 characters"),
        ({"metadata": {"a": [1]}}, "metadata.a: must be a string, a number, a boolean or null"),
        ({"tasks": [{"name": "full", "cost": 1}]}, "tasks: must be at least 2"),
        ({"tasks": [{"name": "a", "cost": 0.5}, {"name": "b", "cost": 0.1}]}, "tasks: exactly one task must have the cost 1"),
        ({"tasks": [{"name": "a", "cost": 2}]}, "tasks[0].cost: must be positive and at most 1"),
        (
            {"tasks": [{"name": "a", "cost": 1}, {"name": "b", "cost": 0.1}]},
            "observation_budget: is required for an experiment with",
        ),
        ({"project": "Not Valid"}, "project: can only have lowercase letters"),
    ],
)
def test_invalid_experiments(changes: dict[str, Any], text: str) -> None:
    assert problem(**changes).startswith(text)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"type": "random"}, "type: cannot be changed"),
        ({"linear_constraints": []}, "linear_constraints: cannot be changed"),
        ({"metrics": [{"name": "auc", "objective": "minimize"}]}, "metrics[0].objective: cannot be changed; it is maximize"),
        ({"metrics": [{"name": "auc", "objective": None}]}, "metrics[0].objective: cannot be changed; it is maximize"),
        ({"metrics": None}, "metrics: cannot be removed"),
        ({"parameters": None}, "parameters: cannot be removed"),
        ({"parameters": [{"name": "depth", "bounds": {"min": 1, "max": 2}}]}, "parameters[0].type: is required"),
        ({"parameters": [{"name": "layers", "default_value": 9}]}, "parameters[0].default_value: must be within the bounds"),
        ({"metrics": []}, "metrics: cannot be added or removed; expected auc"),
        ({"metrics": [{"name": "auc", "threshold": 1}]}, "metrics[0].threshold: Thresholds are only supported"),
        ({"parameters": [DROPOUT]}, "parameters[0]: a parameter that is added needs a default_value"),
        ({"parameters": [{**LAYERS, "type": "double"}]}, "parameters[0]: type and transformation cannot be changed"),
        ({"state": "closed"}, "state: must be one of active, deleted"),
        ({"nmae": "x"}, "nmae: is not a known key"),
    ],
)
def test_invalid_updates(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(ApiError) as refusal:
        update(changes, parsed())
    assert refusal.value.message.startswith(text)


def test_updates_keep_what_they_do_not_name() -> None:
    before = parsed(observation_budget=10, metadata={"a": 1})
    after = update({"name": "renamed", "parameters": [{**DROPOUT, "default_value": 0.1}, LAYERS], "no_optimize": True}, before)
    assert (after.name, after.budget, after.metadata, after.metrics) == ("renamed", 10, {"a": 1}, before.metrics)
    assert [parameter.name for parameter in after.space.parameters] == ["dropout", "layers"]
    assert update({"observation_budget": None, "metadata": None}, after).budget is None


def test_updates_of_parameters_name_only_what_changes() -> None:
    conditional = {"conditionals": [{"name": "arch", "values": ["dot", "dcn"]}]}
    crossing = {**DIMENSION, "conditions": {"arch": "dcn"}, "default_value": 64}
    before = parsed(parameters=[LAYERS, INTERACTION, crossing], **conditional)
    changed = [
        {"name": "layers", "bounds": {"min": 2, "max": 4}},
        {"name": "interaction", "categorical_values": ["dcn", "fm"]},
        {"name": "dimension", "grid": [8, 64]},
    ]
    layers, interaction, dimension = update({"parameters": changed}, before).space.parameters
    assert (layers.kind, layers.low, layers.high) == ("int", 2, 4)
    assert interaction.categories == ("dcn", "fm")
    assert (dimension.grid, dimension.low, dimension.conditions, dimension.default) == ((8, 64), 8, {"arch": ("dcn",)}, 64)
    kept = update({"parameters": [{"name": "layers"}, {"name": "interaction"}, {"name": "dimension"}]}, before)
    assert kept.space == before.space
    with pytest.raises(ApiError, match=r"parameters\[0\].default_value: must be"):
        update({"parameters": [{"name": "dimension", "grid": [8, 16]}, LAYERS]}, before)
    bounded = {"name": "dimension", "bounds": {"min": 8, "max": 100}}
    assert update({"parameters": [LAYERS, bounded]}, before).space.parameters[1].grid == ()


def test_a_constraint_metric_keeps_a_threshold() -> None:
    limited = {"name": "seconds", "strategy": "constraint", "threshold": 5}
    before = parsed(metrics=[AUC, limited], observation_budget=5)
    for change in ({"name": "seconds"}, {"name": "seconds", "threshold": None}):
        with pytest.raises(ApiError, match="threshold: is required for constraint metrics"):
            update({"metrics": [{"name": "auc"}, change]}, before)
    assert update({"metrics": [{"name": "auc"}, {"name": "seconds", "threshold": 6}]}, before).metrics[1].threshold == 6


def test_a_stored_constraint_of_one_parameter_is_read() -> None:
    stored = {"parameters": [DROPOUT], "linear_constraints": [constraint(("dropout", 1), threshold=0.3)]}
    assert space(Reader(stored), stored=True).constraints[0].weights == {"dropout": 1}


@pytest.mark.parametrize(
    ("conditions", "missing"),
    [
        ([{"x": "5"}, {"x": ["5", "10"]}], None),
        ([{"x": "5"}, {}], None),
        ([{"x": "5", "y": "on"}, {"x": ["5", "10"], "y": "off"}, {"x": "10", "y": "on"}], None),
        ([{"x": "5"}, {"x": "5"}], "x = 10"),
        ([{"x": "5", "y": "on"}, {"x": "10", "y": "off"}, {"x": "10", "y": "on"}], "x = 5 and y = off"),
    ],
)
def test_every_value_of_conditionals_leaves_a_parameter(conditions: list[dict[str, Any]], missing: str | None) -> None:
    conditionals = [{"name": "x", "values": ["5", "10"]}, {"name": "y", "values": ["on", "off"]}]
    parameters = [{**DROPOUT, "name": f"p{n}", "conditions": each} for n, each in enumerate(conditions)]
    if missing is None:
        assert len(parsed(parameters=parameters, conditionals=conditionals).space.parameters) == len(conditions)
    else:
        text = f"conditionals: no parameter meets its conditions with {missing}"
        assert problem(parameters=parameters, conditionals=conditionals) == text


def test_metadata_without_nulls() -> None:
    assert parsed(metadata={"a": 1, "b": None}).metadata == {"a": 1} and parsed(metadata={}).metadata == {}
    full = {str(n): n for n in range(100)}
    assert parsed(metadata={**full, "none": None}).metadata == full
    assert problem(metadata={**full, "one": 1}) == "metadata: can have at most 100 keys, but has 101"
    assert problem(metadata={"x" * 101: 1}) == "metadata: keys can have at most 100 characters, but one has 101"


def test_a_reader_names_the_whole_path() -> None:
    inner = Reader(Reader({"a": [{"b": 1}]}).items("a")[0][1], "a[0]")
    assert str(inner.error("b", "is wrong")) == "a[0].b: is wrong"
