"""Filters of lists of runs."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ml.tuning.errors import ApiError
from ml.tuning.runs.query import field_of, read_filters, select

ROWS = [
    {
        "id": number,
        "client": 1,
        "experiment": 7 if number < 3 else None,
        "suggestion": None,
        "observation": None,
        "name": f"Run {number}",
        "state": "completed" if number % 2 else "active",
        "deleted": number == 4,
        "favorite": False,
        "created": 100.5 + number,
        "updated": 200.0,
        "completed": 300.0 if number % 2 else None,
        "assignments": {"lr": number / 10, "arch": "dcn"},
        "metadata": {"a.b": number} if number else None,
        "model": {"type": "dlrm"} if number == 1 else None,
        "source_code": None,
        "logs": {"stdout": {"content": "text"}},
        "values": {"auc": {"value": number / 4, "value_stddev": 0.5}} if number else {},
    }
    for number in range(5)
]


def ids(field: str, operator: str, value: Any = None) -> list[int]:
    text = json.dumps([{"field": field, "operator": operator, "value": value}])
    return [row["id"] for row in select(ROWS, read_filters(text), None)]


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        (("id", "==", 2), [2]),
        (("id", "<=", "2"), [0, 1, 2]),
        (("experiment", "==", "7"), [0, 1, 2]),
        (("experiment", "isnull"), [3, 4]),
        (("user", "isnull"), [0, 1, 2, 3, 4]),
        (("state", "==", "active"), [0, 2, 4]),
        (("deleted", "==", True), [4]),
        (("deleted", "!=", True), [0, 1, 2, 3]),
        (("created", "==", 101), [1]),
        (("finished", "isnull"), [0, 2, 4]),
        (("completed", ">", 299), [1, 3]),
        (("name", "==", "Run 3"), [3]),
        (("model.type", "==", "dlrm"), [1]),
        (("model.type", "isnull"), [0, 2, 3, 4]),
        (("source_code.hash", "isnull"), [0, 1, 2, 3, 4]),
        (("values.auc.value", ">=", 0.5), [2, 3, 4]),
        (("values.auc.value_stddev", "==", 0.5), [1, 2, 3, 4]),
        (("values.missing.value", "==", 1), []),
        (("assignments.lr", "<", 0.15), [0, 1]),
        (("assignments.arch", "==", "dcn"), [0, 1, 2, 3, 4]),
        (("assignments.arch", "<", 1), []),
        (("metadata.a.b", "==", 3), [3]),
        (("logs.stdout.content", "==", "text"), [0, 1, 2, 3, 4]),
    ],
)
def test_filters(condition: tuple[Any, ...], expected: list[int]) -> None:
    assert ids(*condition) == expected


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("values.auc.value", value) for value in ({}, True, "", "0.0", "abc", None)),
        *(("id", value) for value in (True, {}, "", ".", "abc", 0.9, -1, None)),
        *(("created", value) for value in (True, {}, "", "1", 0.9, None)),
        *(("deleted", value) for value in ({}, "abc", "1", 1, None)),
        *(("state", value) for value in ({}, True, 1, "broken", None)),
        *(("name", value) for value in (1, None, [])),
        *(("assignments.lr", value) for value in ([], {}, True, None)),
    ],
)
def test_values_of_the_wrong_type_are_refused(field: str, value: Any) -> None:
    with pytest.raises(ApiError, match=r"filters\[0\].value"):
        ids(field, "==", value)


@pytest.mark.parametrize(
    ("field", "operator"), [("state", "<"), ("state", "isnull"), ("deleted", "<"), ("id", "in"), ("id", "")]
)
def test_operators_that_do_not_fit_are_refused(field: str, operator: str) -> None:
    value = {"state": "active", "deleted": False}.get(field, 1)
    with pytest.raises(ApiError, match=r"filters\[0\].operator"):
        ids(field, operator, value)


@pytest.mark.parametrize(
    "text", ["{", "{}", "1", '"x"', "[1]", "[[]]", '[{"field": "id"}]', "[" * 100_000, json.dumps([{}] * 51)]
)
def test_filters_that_are_no_list_of_conditions_are_refused(text: str) -> None:
    with pytest.raises(ApiError, match="filters"):
        read_filters(text)


@pytest.mark.parametrize(
    "name", ["", "project", "values.auc", "values", "assignments", "logs.stdout", "id.x", "a.b.c", "model.kind"]
)
def test_unknown_fields_are_refused(name: str) -> None:
    with pytest.raises(ApiError, match="is not a field"):
        field_of(name, "sort")


def test_search_ignores_case() -> None:
    assert [row["id"] for row in select(ROWS, [], " rUN 3 ")] == [3]
    assert len(select(ROWS, [], "")) == 5
