"""The catalog entry of the dataset that joins split streams again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ml.catalog.explain import explain
from ml.catalog.labels import MAIN
from ml.catalog.spec import DatasetSpec
from ml.days import MICROSECONDS_PER_HOUR, MICROSECONDS_PER_MINUTE, shift_day
from ml.features.clean_task import read_columns
from ml.joiner.split.events import ACTION, AT, POSITION, REQUEST, SHOWN_AT, TYPE
from ml.joiner.split.options import SplitOptions

IMPRESSIONS, ACTIONS = "impressions", "actions"
CLICKED = "clicked"


def label_names(spec: DatasetSpec) -> dict[str, str]:
    """Returns the columns with the labels that the joiner adds, by the names of the labels, the main one first.

    A label has the log's own column, if that has 0 and 1. Otherwise the main one is `clicked`, and others have their own names.
    The actions of the main label are of the type `ACTION`, and those of each other label of the type of its column's name.

    Raises:
        ValueError: Two labels would have the same column or type.
    """
    found = {MAIN: CLICKED} if spec.label.negatives else {}
    for rule in spec.label_rules:
        is_own = rule.at_least is None and rule.positive is None and spec.source.columns.get(rule.column) == "int"
        found[rule.name] = rule.column if is_own else CLICKED if rule.name == MAIN else rule.name
    main, *others = found.values()
    if taken := sorted({name for name in others if name in (main, ACTION) or others.count(name) > 1}):
        raise ValueError(f"{spec.name}: the streams use {taken} for another label; rename labels or columns with these names")
    return found


def source_columns(spec: DatasetSpec) -> list[str]:
    """Returns the columns of the raw logs that features, feature tables and labels need."""
    tables = [name for name in spec.table_columns if name in spec.source.columns]
    return list(dict.fromkeys([*read_columns(spec), *tables]))


def key_of(spec: DatasetSpec) -> list[str]:
    """Returns the columns of the key. A request of a log with sampled negatives shows several items, by position."""
    return [REQUEST, POSITION] if spec.label.negatives else [REQUEST]


def impression_columns(spec: DatasetSpec) -> dict[str, str]:
    """Returns the types of the impressions' columns: those that features need, without the labels, and the key and the time.

    A column that a label is read from otherwise than as 0 and 1, such as stars, stays if a feature table reads it too.

    Raises:
        ValueError: The log has a column with a name that the streams use, or a label is no column of it.
    """
    negatives, names = spec.label.negatives, label_names(spec)
    rules = spec.label_rules
    if elsewhere := [rule.column for rule in rules if rule.column not in spec.source.columns]:
        raise ValueError(f"{spec.name}: the labels {elsewhere} are no columns of the log, so no action gives them")
    dropped = {rule.column for rule in rules if names[rule.name] == rule.column or rule.column not in spec.table_columns}
    needed = set(source_columns(spec)) - dropped
    types: dict[str, str] = {c: kind for c, kind in spec.source.columns.items() if c in needed}
    types |= dict.fromkeys(negatives.recent, "int") if negatives else {}
    own = {**dict.fromkeys(key_of(spec), "int"), SHOWN_AT: "int"}
    if taken := sorted(types.keys() & {*own, *names.values(), TYPE, AT}):
        raise ValueError(f"{spec.name}: columns {taken} have names that the streams use; rename them with source.rename")
    return types | own


def stream_entry(spec: DatasetSpec, name: str, days: list[str], options: SplitOptions) -> dict[str, Any]:
    """Returns the catalog entry of the dataset that joins the streams again.

    Its features are those of the split dataset, except histories of clicked items (`history: <number>`), which exist only for
    logs with sampled negatives. It has its own recipes.

    Args:
        spec: The dataset that was split.
        name: Name of the new dataset.
        days: The days that were split.
        options: Delays, which say how many days follow.

    Raises:
        ValueError: The catalog would refuse the entry, or a reason of `impression_columns`.
    """
    data = spec.model_dump(mode="json", exclude_unset=True)
    dropped = (
        "source",
        "time",
        "partitions",
        "label",
        "labels",
        "oracle",
        "simulation",
        "models",
        "recipe",
        "ranking",
        "expectations",
        "demo_days",
    )
    kept = {key: value for key, value in data.items() if key not in dropped}
    labels, key = label_names(spec), key_of(spec)
    main, *others = labels.values()
    wait = options.wait / MICROSECONDS_PER_MINUTE
    columns = impression_columns(spec)
    features = [f for f, column in zip(kept["sparse"], spec.sparse, strict=True) if not isinstance(column.history, int)]
    last = shift_day(days[-1], -(-options.longest_delay // (24 * MICROSECONDS_PER_HOUR)))
    entry = {
        **kept,
        "name": name,
        "description": f"{spec.name}, split into impressions and actions of some days, for the joiner.",
        "source": {"files": f"{IMPRESSIONS}/*.jsonl", "format": "jsonl", "columns": columns},
        "time": {"column": SHOWN_AT, "unit": "us", "timezone": spec.time.timezone},
        "partitions": {"start": days[0], "end": last},
        "sparse": features,
        "actions": {
            "source": {
                "files": f"{ACTIONS}/*.jsonl",
                "format": "jsonl",
                "columns": {**{column: columns[column] for column in key}, TYPE: "string", AT: "int"},
            },
            "time": {"column": AT, "unit": "us"},
            "key": key,
            "type": TYPE,
            "lateness_minutes": options.disorder / MICROSECONDS_PER_MINUTE,
            "labels": {
                main: {"types": [ACTION], "within_minutes": wait},
                **{column: {"types": [column], "within_minutes": wait} for column in others},
            },
        },
        "label": {"column": main, **({"weight": spec.label.weight} if spec.label.weight else {})},
        **({"labels": {name: {"column": labels[name]} for name in spec.labels}} if spec.labels else {}),
        "demo_days": max(2, min(spec.demo_days, len(days))),
    }
    try:
        DatasetSpec.model_validate(entry)
    except ValidationError as error:
        why = explain(Path(f"{name}.yaml"), error, DatasetSpec)
        raise ValueError(f"{spec.name}: the catalog would refuse the entry that joins the streams again:\n{why}") from error
    return entry
