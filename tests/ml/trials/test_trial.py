"""A trial trains on each day of its window once, scores only days it has not seen, and writes nothing to the lake."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from upath import UPath

from ml.datasets.reader import BlockReader
from ml.lake import Lake
from ml.stages import MDS_DATASETS
from ml.training.replay import replay
from ml.trials.checkpoints import A_DAY
from ml.trials.trial import Trial, run_trial
from tests.helpers.training_days import made_spec, small_recipe, write_days


@pytest.fixture
def trial(lake: Lake) -> Trial:
    days = tuple(write_days(lake, made_spec(), 4, 320))
    return Trial(made_spec(), small_recipe(), days, days[-2:], lake)


def test_the_scores_are_those_of_a_replay(trial: Trial, lake: Lake) -> None:
    result = run_trial(trial)
    replayed = replay(made_spec(), trial.days, lake, trial.recipe, scored=trial.scored, train_last=False)
    assert result.by_day == {day.day: day.scores for day in replayed.days if day.scores}
    assert result.auc == pytest.approx(sum(s["auc"] for s in result.by_day.values()) / 2)
    assert result.rows == 3 * 320  # the last day is scored only
    assert result.training_time > 0 < result.model_bytes
    assert result.values().keys() == {"auc", "log_loss", "training_time", "model_bytes"}


def test_a_target_that_is_easy_ends_the_training_of_each_day(trial: Trial) -> None:
    recipe = small_recipe(splits=["train", "test"], early_stop={"target": 0.01, "every": 0.25})
    whole = run_trial(replace(trial, recipe=small_recipe(splits=["train", "test"])))
    result = run_trial(replace(trial, recipe=recipe))
    assert 0 < result.rows < whole.rows / 2


def test_a_trial_leaves_the_lake_as_it_is(trial: Trial, lake: Lake) -> None:
    def files() -> dict[str, float]:
        return {str(path): path.stat().st_mtime_ns for path in Path(lake.root.path).rglob("*")}

    before = files()
    run_trial(trial)
    assert files() == before


def test_each_day_is_read_for_training_once_and_in_order(trial: Trial, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[tuple[str, int]] = []
    original = BlockReader.__init__

    def record(self: BlockReader, lake: Lake, spec: object, days: list[str], **options: object) -> None:
        read.extend((day, int(str(options["batch_size"]))) for day in days)
        original(self, lake, spec, days, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(BlockReader, "__init__", record)
    run_trial(trial)
    assert [day for day, batch in read if batch == trial.recipe.batch_size] == list(trial.days[:-1])


def test_checkpoints_do_not_change_the_result(trial: Trial) -> None:
    seen: list[tuple[int, dict[str, float]]] = []

    def on_checkpoint(number: int, metrics: Mapping[str, float]) -> str:
        seen.append((number, dict(metrics)))
        return ""

    plain = run_trial(trial, on_checkpoint=on_checkpoint)
    assert not seen, "early stopping is off"
    watched = run_trial(replace(trial, early_stopping=True), on_checkpoint=on_checkpoint)
    assert asdict(watched) | {"training_time": 0} == asdict(plain) | {"training_time": 0}
    assert [number for number, _ in seen] == list(range(1, 3 * A_DAY)), "none at the end of the training"
    assert all(metrics.keys() == {"auc", "log_loss", "training_time", "model_bytes"} for _, metrics in seen)
    times = [metrics["training_time"] for _, metrics in seen]
    assert times == sorted(times) and 0 < times[-1] <= watched.training_time


def test_checkpoints_score_the_day_that_is_never_trained(trial: Trial, lake: Lake) -> None:
    def aucs() -> list[float]:
        seen: list[float] = []
        run_trial(replace(trial, early_stopping=True), on_checkpoint=lambda number, metrics: seen.append(metrics["auc"]) or "")
        return seen

    before = aucs()
    write_days(lake, made_spec(), 4, [320, 320, 320, 200])  # other rows of the last day only
    assert all(auc != other for auc, other in zip(before, aucs(), strict=True))


def test_checkpoints_are_at_the_same_rows_with_another_batch_size(trial: Trial) -> None:
    for batch_size in (320, 100):  # 1 and 4 steps a day
        seen: list[int] = []
        recipe = trial.recipe.model_copy(update={"batch_size": batch_size})
        run_trial(
            replace(trial, early_stopping=True, recipe=recipe),
            on_checkpoint=lambda number, metrics, to=seen: to.append(number) or "",
        )
        assert seen == ([4, 8] if batch_size == 320 else list(range(1, 12)))


def test_a_trial_that_is_stopped_has_no_scores(trial: Trial) -> None:
    stopped = run_trial(replace(trial, early_stopping=True), on_checkpoint=lambda number, metrics: "bad" if number == 6 else "")
    assert stopped.stopped == "bad at checkpoint 6 of 11"
    assert stopped.auc is None and not stopped.by_day and stopped.rows == pytest.approx(1.5 * 320, abs=64)
    assert stopped.training_time > 0 < stopped.model_bytes


@pytest.mark.parametrize(
    ("days", "scored", "message"),
    [
        ([0, 1, 1, 2], [2], "each once"),
        ([0, 2, 3], [3], "consecutive"),
        ([2, 1, 0], [0], "consecutive"),
        ([], [], "consecutive"),
        ([0, 1, 2], [], "the last of the days"),
        ([0, 1, 2], [1], "the last of the days"),
        ([0, 1], [0, 1], "the last of the days"),
    ],
)
def test_a_window_that_would_train_on_a_day_twice_is_refused(
    trial: Trial, days: list[int], scored: list[int], message: str
) -> None:
    wrong = replace(trial, days=tuple(trial.days[n] for n in days), scored=tuple(trial.days[n] for n in scored))
    with pytest.raises(ValueError, match=message):
        run_trial(wrong)


def test_a_gap_of_days_without_rows_is_allowed(lake: Lake) -> None:
    days = tuple(write_days(lake, made_spec(), 4, [320, 0, 320, 320]))
    trial = Trial(made_spec(), small_recipe(), (days[0], *days[2:]), days[3:], lake)
    assert run_trial(trial).rows == 2 * 320
    lake.discard(MDS_DATASETS, made_spec().name, days[1])
    with pytest.raises(ValueError, match="consecutive"):
        run_trial(trial)


def test_a_trial_as_json_is_the_same_trial(trial: Trial) -> None:
    trial = replace(trial, data={day: "digest" for day in trial.days}, early_stopping=True)
    assert Trial.from_json(json.loads(json.dumps(trial.to_json()))) == trial


def test_a_trial_keeps_the_options_of_the_lake(trial: Trial) -> None:
    options = {"anon": True, "endpoint_url": "http://127.0.0.1:9000"}
    remote = replace(trial, lake=Lake(UPath("memory://bucket/lake", **options)))
    read = Trial.from_json(json.loads(json.dumps(remote.to_json())))
    assert read == remote and dict(read.lake.root.storage_options) == options
