"""The form of a click: a row that it makes has a positive label."""

from __future__ import annotations

import pytest

from ml.catalog.spec import DatasetSpec
from ml.serving.clicks import click_schema
from tests.helpers.kiosk_lake import experiment_spec


@pytest.mark.parametrize(("name", "values"), [("movielens", {"rating": 4}), ("synthetic", {"clicked": 1}), ("globo", {})])
def test_a_click_has_the_least_value_of_a_positive_label(
    catalog: dict[str, DatasetSpec], name: str, values: dict[str, object]
) -> None:
    form = click_schema(catalog[name])
    assert form is not None and form["values"] == values


@pytest.mark.parametrize(("kind", "value"), [("int", 1), ("float", 0.5)])
def test_the_least_value_has_the_type_of_its_column(kind: str, value: float) -> None:
    columns = {"time": "int", "user": "int", "item": "int", "visit": "int", "place": "string", "clicked": kind}
    source = {"files": "*.csv", "format": "csv", "columns": columns}
    form = click_schema(experiment_spec(source=source, label={"column": "clicked", "at_least": 0.5}, experiment=None))
    assert form is not None and form["values"] == {"clicked": value} and type(form["values"]["clicked"]) is type(value)
