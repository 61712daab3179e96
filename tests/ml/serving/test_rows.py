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


@pytest.mark.parametrize("time", [float("nan"), float("inf"), "now", [END], {"at": END}, 2**64, END // 10**6])
def test_a_row_whose_time_is_none_is_refused(bundle: Bundle, time: object) -> None:
    with pytest.raises(WrongColumn, match="event_time"):
        rank_rows(SPEC, bundle, 1, {}, [{"item": 1, "event_time": time}], END)


def test_the_row_without_a_time_is_named(bundle: Bundle) -> None:
    rows = [{"item": 1, "event_time": END * 1.0}, {"item": 1, "event_time": float("nan")}]
    with pytest.raises(WrongColumn, match=r"^candidates\[1\]\.event_time: expected microseconds since 1970 UTC, found nan$"):
        rank_rows(SPEC, bundle, 1, {}, rows, END)


@pytest.mark.parametrize("kind", [ValueError, TypeError, KeyError])
def test_an_error_of_the_model_is_not_one_of_the_request(
    kind: type[Exception], bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise kind("lost shard")

    monkeypatch.setattr(bundle.predictor, "predict_labels", broken)
    with pytest.raises(kind, match="lost shard") as error:
        rank_rows(SPEC, bundle, 1, {}, [{"item": 1}], END)
    assert not isinstance(error.value, WrongColumn)
