"""JSON schemas of the bodies and query parameters of the API, for its OpenAPI description.

The readers of `ml.tuning` decide what is valid and name the key that is not. The schemas describe the same for people and
tools, and leave out rules that span several keys.
"""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]

NUMBER: Schema = {"type": "number", "minimum": -1e300, "maximum": 1e300}
FLAG: Schema = {"type": "boolean"}
ID: Schema = {"type": "string", "pattern": "^[0-9]{1,18}$"}
POSITIVE: Schema = {"type": "integer", "minimum": 1}
COUNT: Schema = {**POSITIVE, "maximum": 2**31 - 1}


def text(limit: int, least: int = 1) -> Schema:
    """Return the schema of a string."""
    return {"type": "string", "minLength": least, "maxLength": limit}


def nullable(schema: Schema) -> Schema:
    """Return the schema of a value that can be null."""
    return {"anyOf": [schema, {"type": "null"}]}


def one_of(*values: str) -> Schema:
    """Return the schema of one of several strings."""
    return {"type": "string", "enum": list(values)}


def array(items: Schema, least: int = 0) -> Schema:
    """Return the schema of a list."""
    return {"type": "array", "items": items, "minItems": least}


def record(required: tuple[str, ...] = (), **properties: Schema) -> Schema:
    """Return the schema of an object with known keys."""
    return {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}


def mapping(values: Schema) -> Schema:
    """Return the schema of an object with any keys."""
    return {"type": "object", "propertyNames": text(100), "additionalProperties": values}


def ref(name: str) -> Schema:
    """Refer to a component."""
    return {"$ref": f"#/components/schemas/{name}"}


METADATA = mapping({"anyOf": [text(500, 0), NUMBER, {"type": "null"}]})
ASSIGNMENTS = mapping({"anyOf": [text(50), NUMBER]})
BOUNDS = record(("min", "max"), min=NUMBER, max=NUMBER)
EVALUATION = record(("value",), name=text(100), value=NUMBER, value_stddev=nullable({"type": "number", "minimum": 0}))
EXPERIMENT: dict[str, Schema] = {
    "name": text(100),
    "parameters": array(ref("Parameter"), 1),
    "metrics": array(ref("Metric"), 1),
    "conditionals": array(ref("Conditional")),
    "linear_constraints": array(ref("LinearConstraint")),
    "parallel_bandwidth": nullable(COUNT),
    "num_solutions": nullable(COUNT),
    "metadata": nullable(METADATA),
}
CORE = {
    **EXPERIMENT,
    "project": nullable(text(32)),
    "observation_budget": nullable(POSITIVE),
    "tasks": array(record(("name", "cost"), name=text(100), cost={"type": "number", "exclusiveMinimum": 0, "maximum": 1})),
    "type": one_of("offline", "random", "grid"),
}
RUN: dict[str, Schema] = {
    "name": text(100),
    "state": one_of("active", "completed", "failed"),
    "deleted": FLAG,
    "favorite": FLAG,
    "assignments": nullable(METADATA),
    "assignments_meta": nullable(mapping(record(("source",), source=text(30)))),
    "assignments_sources": nullable(mapping(record(("sort",), sort=NUMBER, default_show=FLAG))),
    "values": nullable(mapping(EVALUATION)),
    "metadata": nullable(METADATA),
    "sys_metadata": nullable({"type": "object"}),
    "dev_metadata": nullable(METADATA),
    "model": nullable(record(type=nullable(text(1000)))),
    "datasets": nullable(mapping(record())),
    "source_code": nullable(record(content=nullable(text(1000, 0)), hash=nullable(text(100, 0)))),
    "logs": nullable(mapping(record(("content",), content={"type": "string"}))),
}
OBSERVATION = record(
    suggestion=ID,
    assignments=ASSIGNMENTS,
    values=array(EVALUATION),
    failed=FLAG,
    stopped=FLAG,
    metadata=nullable(METADATA),
    task=text(100),
    no_optimize=FLAG,
)
SUGGESTION = record(assignments=nullable(ASSIGNMENTS), metadata=nullable(METADATA), task=text(100))
PROJECT = {"name": text(100), "metadata": nullable(METADATA)}

_PARAMETER: dict[str, Schema] = {
    "name": text(100),
    "conditions": mapping({"anyOf": [text(100), array(text(100), 1)]}),
    "default_value": {"anyOf": [NUMBER, text(50), {"type": "null"}]},
}
_RANGE = record(
    ("name", "type", "bounds"),
    **_PARAMETER,
    type=one_of("double", "int"),
    bounds=BOUNDS,
    prior=nullable(record(("name",), name=one_of("normal", "beta"), mean=NUMBER, scale=NUMBER, shape_a=NUMBER, shape_b=NUMBER)),
)
_LOG_RANGE = record(
    ("name", "type", "bounds", "transformation"),
    **_PARAMETER,
    type=one_of("double"),
    bounds=record(("min", "max"), min={"type": "number", "exclusiveMinimum": 0}, max={"type": "number", "exclusiveMinimum": 0}),
    transformation=one_of("log"),
)
_GRID = record(
    ("name", "type", "grid"),
    **_PARAMETER,
    type=one_of("double", "int"),
    grid={**array({"type": "integer"}, 2), "uniqueItems": True},
)
_CATEGORICAL = record(
    ("name", "type", "categorical_values"),
    **_PARAMETER,
    type=one_of("categorical"),
    categorical_values={**array({"anyOf": [text(50), record(("name",), name=text(50))]}, 2), "uniqueItems": True},
)

COMPONENTS: dict[str, Schema] = {
    "Parameter": {"anyOf": [_RANGE, _LOG_RANGE, _GRID, _CATEGORICAL]},
    "Metric": record(
        name=text(100),
        objective=one_of("maximize", "minimize"),
        strategy=one_of("optimize", "constraint", "store"),
        threshold=nullable(NUMBER),
    ),
    "Conditional": record(("name", "values"), name=text(100), values=array(text(50), 2)),
    "LinearConstraint": record(
        ("type", "threshold", "terms"),
        type=one_of("less_than", "greater_than"),
        threshold=NUMBER,
        terms=array(record(("name", "weight"), name=text(100), weight=NUMBER), 2),
    ),
    "Experiment": record(("name", "parameters"), **CORE),
    "AIExperiment": record(("name", "parameters", "metrics"), **EXPERIMENT, budget=nullable(POSITIVE), type=one_of("offline")),
    "TrainingRun": record(("name",), **{key: schema for key, schema in RUN.items() if key != "project"}),
    "Observation": OBSERVATION,
    "Suggestion": SUGGESTION,
}

_RUN_UPDATE = record((), **RUN, project=text(32))
_BODIES: dict[str, Schema] = {
    "POST experiments": ref("Experiment"),
    "POST clients/{client}/experiments": ref("Experiment"),
    "PUT experiments/{experiment}": record((), **CORE, state=one_of("active", "deleted"), no_optimize=FLAG),
    "POST clients/{client}/projects": record(
        ("id", "name"), id={"type": "string", "pattern": r"^[a-z0-9\-_.]{1,32}$"}, **PROJECT
    ),
    "PUT clients/{client}/projects/{project}": record((), **PROJECT, deleted=FLAG),
    "POST clients/{client}/projects/{project}/aiexperiments": ref("AIExperiment"),
    "PUT aiexperiments/{experiment}": record((), **EXPERIMENT, budget=nullable(POSITIVE), state=one_of("active", "deleted")),
    "POST aiexperiments/{experiment}/training_runs": ref("TrainingRun"),
    "POST clients/{client}/projects/{project}/training_runs": ref("TrainingRun"),
    "POST clients/{client}/projects/{project}/training_runs/batch": record(
        ("runs",), runs=array(ref("TrainingRun")), fields={"type": "string"}
    ),
    "PUT training_runs/{run}": _RUN_UPDATE,
    "MERGE training_runs/{run}": _RUN_UPDATE,
    "POST training_runs/{run}/checkpoints": record(("values",), values=array(EVALUATION, 1), metadata=nullable(METADATA)),
    "POST training_runs/{run}/files": record(
        ("content_length", "content_md5", "content_type"),
        name=nullable(text(100)),
        filename=nullable(text(100)),
        content_length=POSITIVE,
        content_md5={"type": "string", "pattern": "^[A-Za-z0-9+/]{22}==$"},
        content_type=one_of("image/png", "image/svg+xml", "text/plain"),
    ),
    "POST training_runs/{run}/tags": record(("id",), id=ID),
    "POST clients/{client}/tags": record(
        ("name", "color"), name=text(100), color={"type": "string", "pattern": "^#[0-9A-Fa-f]{6}$"}
    ),
    "POST clients/{client}/tokens": record(development=FLAG),
    "POST sessions": record(("password",), email={"type": "string"}, password={"type": "string"}),
    "POST experiments/{experiment}/suggestions": SUGGESTION,
    "PUT experiments/{experiment}/suggestions/{suggestion}": record(metadata=nullable(METADATA)),
    "POST experiments/{experiment}/suggestions/{suggestion}/checkpoints": record(
        ("step", "values"),
        step={"type": "integer", "minimum": 1, "maximum": 200},
        values=array(EVALUATION, 1),
        metadata=nullable(METADATA),
    ),
    "POST experiments/{experiment}/queued_suggestions": record(("assignments",), assignments=ASSIGNMENTS, task=text(100)),
    "POST experiments/{experiment}/observations": OBSERVATION,
    "PUT experiments/{experiment}/observations/{observation}": record(
        **{key: schema for key, schema in OBSERVATION["properties"].items() if key != "stopped"}
    ),
    "POST experiments/{experiment}/observations/batch": record(
        ("observations",), observations=array(ref("Observation"), 1), no_optimize=FLAG
    ),
}

_PAGE: dict[str, Schema] = {
    "limit": {"type": "integer", "minimum": 0, "maximum": 1000},
    "before": {"type": "string"},
    "after": {"type": "string"},
    "ascending": FLAG,
}
_TIME: Schema = {"type": "integer", "minimum": 0}
_LIST = {
    **_PAGE,
    "sort": one_of("id", "recent"),
    "search": {"type": "string"},
    "state": one_of("active", "deleted", "all"),
    "development": FLAG,
    "include_ai": FLAG,
    "period_start": _TIME,
    "period_end": _TIME,
}
_STATE = one_of("open", "closed")
_QUERIES: dict[str, dict[str, Schema]] = {
    "GET clients/{client}/projects": {**_PAGE, "sort": one_of("created", "updated"), "deleted": FLAG},
    "GET clients/{client}/projects/{project}/training_runs": {
        **_PAGE,
        "sort": {"type": "string", "examples": ["id", "created", "values.auc.value"]},
        "search": {"type": "string"},
        "filters": {"type": "string", "examples": ['[{"field": "state", "operator": "==", "value": "completed"}]']},
    },
    "GET experiments/{experiment}/suggestions": {
        **_PAGE,
        "state": _STATE,
        "deleted": FLAG,
        "id": {"type": "string", "pattern": "^[0-9]{1,18}(,[0-9]{1,18})*$"},
    },
    "DELETE experiments/{experiment}/suggestions": {"state": _STATE},
    "GET experiments/{experiment}/observations": {
        **_PAGE,
        "deleted": FLAG,
        "sort": {"type": "string", "examples": ["id", "value-auc", "value_stddev-auc", "parameter-layers"]},
    },
    "DELETE aiexperiments/{experiment}": {"include_runs": FLAG},
    "DELETE experiments/{experiment}": {"include_runs": FLAG},
}


def body(method: str, path: str) -> Schema:
    """Return the schema of a request's body."""
    return _BODIES.get(f"{method} {path}", {"type": "object"})


def query(method: str, path: str) -> dict[str, Schema]:
    """Return the schemas of query parameters, by name."""
    return _QUERIES.get(f"{method} {path}", _LIST if method == "GET" and not path.endswith("}") else {})


def path_argument(name: str) -> Schema:
    """Return the schema of an argument in a path."""
    return text(32) if name == "project" else {"type": "string", "pattern": "^[0-9]{1,6}$"}
