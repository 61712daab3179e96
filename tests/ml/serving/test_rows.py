"""Rows that a client describes completely are ranked as of their own time, or as of the request."""

from __future__ import annotations

import pytest

from ml.artifacts.bundle import Bundle
from ml.recipes.recipe import recipe_of
from ml.schema import FeatureSchema
from ml.serving.faults import WrongColumn
from ml.serving.rows import rank_rows
from ml.sync.serving_copy import serving_copy
from ml.training.state import new_state
from tests.helpers.kiosk_lake import END, HOUR, spec_of

SPEC = spec_of(
    sparse=["item", {"name": "hour", "hour_of_day": True}],
    models={"dlrm": {"overrides": {"tables": {"default": {"kind": "hashed", "rows": 64}}}}},
)


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return Bundle(SPEC, serving_copy(new_state(recipe_of(SPEC, "dlrm"), FeatureSchema.of(SPEC)), "float32"), {})


def test_a_row_without_a_time_has_that_of_the_request(bundle: Bundle) -> None:
    rows = [{"item": 1}, {"item": 1, "event_time": None}, {"item": 1, "event_time": END}, {"item": 1, "event_time": END - HOUR}]
    scores = {at: score for at, score, _ in rank_rows(SPEC, bundle, 1, {}, rows, END)}
    assert scores[0] == scores[1] == scores[2] != scores[3]


@pytest.mark.parametrize("time", [float("nan"), float("inf"), "now", [END]])
def test_a_row_whose_time_is_none_is_refused(bundle: Bundle, time: object) -> None:
    with pytest.raises(WrongColumn):
        rank_rows(SPEC, bundle, 1, {}, [{"item": 1, "event_time": time}], END)
