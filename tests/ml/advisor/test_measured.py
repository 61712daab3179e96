"""A trained day is compared with its prediction, if the machine is calibrated and the days before have a profile."""

from __future__ import annotations

from pathlib import Path

import pytest

from ml.advisor import calibration
from ml.advisor.calibration import Calibration, made_with
from ml.advisor.cost import SECONDS, TABLES, Speed
from ml.advisor.hardware import detect
from ml.advisor.measured import compare_day
from ml.advisor.profiles.day import profile_day
from ml.lake import Lake
from ml.training.day import DayOptions, train_day
from tests.helpers.training_days import made_spec, write_days


def test_a_trained_day_is_compared_with_its_prediction(lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = made_spec()
    days = write_days(lake, spec, 2, 320)
    trained = [train_day(spec, day, lake, options=DayOptions(progress=False)) for day in days]

    def compared(number: int, **metrics: float) -> dict:
        done = trained[number]
        found = compare_day(spec, days[number], lake, tmp_path, done.recipe, done.metrics | metrics)
        return {each.quantity: each for each in found}

    profile_day(spec, days[0], lake)
    assert compared(1) == {}, "the machine is not calibrated, and a comparison does not measure it"
    machine = detect().machine
    made = Calibration(machine, made_with(), Speed({"steps": 0.5}), 0.1)
    monkeypatch.setattr(calibration, "_measured_apart", lambda machine: made)
    calibration.calibration_of(tmp_path)
    assert compared(0) == {}, "no day before has a profile"
    steps = trained[1].report.steps
    found = compared(1, cpu_seconds=steps)
    assert (found[SECONDS].predicted, found[SECONDS].took, found[SECONDS].factor) == (steps * 0.5, steps, 2.0)
    assert not found[SECONDS].close and found[TABLES].took == trained[1].metrics["table_megabytes"]
    assert compared(1, rows=1.0)[SECONDS].predicted == 0.5, "the prediction is for the rows that were trained on"
    assert compared(1, rows=0.0) == {}
