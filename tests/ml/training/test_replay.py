"""A replay gives the same model as daily training, and scores each day with the model of the days before it."""

from __future__ import annotations

import pytest
import torch

from ml.datasets.reader import BlockReader
from ml.lake import Lake
from ml.training.day import DayOptions, train_day
from ml.training.load import load_model
from ml.training.replay import ReplayedDay, replay
from ml.training.score import score
from ml.training.state import TrainState
from ml.training.state_dict import load_snapshot
from tests.helpers.training_days import made_spec, small_recipe, write_days
from tests.helpers.training_states import same_weights

ALL = ("train", "validation", "test")


def scores_of(lake: Lake, state: TrainState, day: str, *splits: str) -> dict[str, float | int | None]:
    return score(state, BlockReader(lake, made_spec(), [day], splits=splits or ALL, batch_size=8192, order="time"))


def test_days_are_trained_as_daily_training_does_and_scored_by_the_day_before(lake: Lake) -> None:
    days, recipe = write_days(lake, made_spec(), 3, 640), small_recipe(seed=5)
    seen: list[ReplayedDay] = []
    replayed = replay(made_spec(), days, lake, recipe, on_result=seen.append)
    trained = [train_day(made_spec(), day, lake, options=DayOptions(recipe=recipe, progress=False)) for day in days]
    last = load_snapshot(trained[-1].folder)
    assert same_weights(replayed.state, last)
    assert seen == replayed.days and [day.day for day in seen] == days
    assert [day.report.loss for day in seen if day.report] == [day.report.loss for day in trained]
    assert seen[0].scores is None
    for before, day in zip(trained, seen[1:], strict=False):
        assert day.scores == scores_of(lake, load_snapshot(before.folder), day.day)
    assert replayed.state.recipe.seed == 5
    assert torch.equal(
        load_model(lake, made_spec(), days[-1]).state_dict()["top.1.weight"], replayed.state.model.state_dict()["top.1.weight"]
    )


def test_a_day_ends_early_as_in_daily_training(lake: Lake) -> None:
    early_stop = {"metric": "log_loss", "target": 0.69, "every": 0.1}
    days, recipe = write_days(lake, made_spec(), 2, 640), small_recipe(splits=["train", "test"], early_stop=early_stop)
    replayed = replay(made_spec(), days, lake, recipe, scored=())
    trained = [train_day(made_spec(), day, lake, options=DayOptions(recipe=recipe, progress=False)) for day in days]
    assert [(day.report.rows, day.report.stopped_early) for day in replayed.days if day.report] == [
        (day.report.rows, day.report.stopped_early) for day in trained
    ]
    assert trained[-1].report.stopped_early and trained[-1].report.rows < 400
    assert same_weights(replayed.state, load_snapshot(trained[-1].folder))


def test_what_is_scored_and_trained_on_can_be_chosen(lake: Lake) -> None:
    days, recipe = write_days(lake, made_spec(), 3, 640), small_recipe(splits=["train"])
    replayed = replay(made_spec(), days, lake, recipe, scored=days[-1:], scored_splits=["validation"], train_last=False)
    assert [day.scores is None for day in replayed.days] == [True, True, False]
    assert [day.report is None for day in replayed.days] == [False, False, True]
    assert replayed.days[-1].scores == scores_of(lake, replayed.state, days[-1], "validation")
    assert 0 < (replayed.days[-1].scores["rows"] or 0) < 640


def test_a_replay_stops_when_its_caller_raises(lake: Lake) -> None:
    days, seen = write_days(lake, made_spec(), 3, 320), []

    def prune(day: ReplayedDay) -> None:
        seen.append(day.day)
        if day.scores:
            raise KeyError("pruned")

    with pytest.raises(KeyError, match="pruned"):
        replay(made_spec(), days, lake, small_recipe(), on_result=prune)
    assert seen == days[:2]


def test_the_first_day_cannot_be_scored(lake: Lake) -> None:
    days = write_days(lake, made_spec(), 2, 320)
    with pytest.raises(ValueError, match="2026-01-01 cannot be scored: it is the first day of the replay"):
        replay(made_spec(), days, lake, small_recipe(), scored=days)
