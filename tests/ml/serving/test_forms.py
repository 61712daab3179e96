"""Bodies with very many wrong values have few faults, so that they cost little memory and get a short answer."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError

from ml.serving.forms import MOST_TEXT, MOST_VALUES, EventsRequest, Form, RankRequest, RecommendRequest

MANY = 50_000
WIDE: dict[str, Any] = {str(number): {} for number in range(MANY)}
LISTS: list[Any] = [[] for _ in range(MANY)]


@pytest.mark.parametrize(
    ("form", "body"),
    [
        (EventsRequest, {"examples": [WIDE]}),
        (EventsRequest, {"examples": list(range(MANY))}),
        (EventsRequest, {"impressions": LISTS}),
        (EventsRequest, {"actions": [{"tags": LISTS}]}),
        (RecommendRequest, {"context": WIDE}),
        (RecommendRequest, {"context": {"tags": LISTS}}),
        (RecommendRequest, {"filters": WIDE}),
        (RecommendRequest, {"filters": {"tags": LISTS}}),
        (RankRequest, {"candidates": LISTS}),
        (RankRequest, {"candidates": [WIDE]}),
        (RankRequest, {"candidates": [5], "context": WIDE}),
    ],
)
def test_the_first_wrong_value_of_many_ends_the_validation(form: type[Form], body: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as error:
        form.model_validate_json(json.dumps(body))
    assert error.value.error_count() < 20


@pytest.mark.parametrize("value", ["x" * (MOST_TEXT + 1), list(range(MOST_VALUES + 1))], ids=["text", "list"])
def test_a_value_that_is_too_long_is_refused_everywhere(value: Any) -> None:
    for form, body in (
        (EventsRequest, {"examples": [{"tags": value}]}),
        (RecommendRequest, {"context": {"tags": value}}),
        (RecommendRequest, {"filters": {"tags": value if isinstance(value, list) else [value]}}),
        (RecommendRequest, {"user": value}),
        (RankRequest, {"candidates": [value]}),
    ):
        with pytest.raises(ValidationError):
            form.model_validate_json(json.dumps(body))


def test_the_longest_values_are_accepted() -> None:
    values = {"text": "x" * MOST_TEXT, "list": list(range(MOST_VALUES))}
    assert EventsRequest.model_validate_json(json.dumps({"examples": [values]})).examples == [values]
