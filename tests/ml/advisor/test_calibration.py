from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from ml.advisor import calibration
from ml.advisor.calibration import SHAPES, Calibration, calibration_of, made_with, measure
from ml.advisor.cost import Speed
from ml.advisor.hardware import Hardware

MACHINE = Hardware("a processor", 2.0, 8 << 30)
MADE = Calibration(MACHINE.machine, made_with(), Speed({"steps": 0.001}, 0.5, 500_000_000), 0.1)


def test_measuring_gives_a_rate_for_what_was_trained() -> None:
    found = measure("m", SHAPES[:2])
    assert found.machine == "m" and found.speed.base_bytes > 100_000_000 and found.speed.start_seconds > 0
    assert all(rate >= 0 for rate in found.speed.rates.values()) and found.speed.rates["values"] > 0
    assert sum(rate > 0 for rate in found.speed.rates.values()) >= 2
    assert found.error < 0.5


def test_shapes_cover_every_kind_of_model_and_every_term() -> None:
    from ml.advisor.cost import terms
    from ml.advisor.rules import KINDS
    from ml.recipes.recipe import load_recipe

    assert {shape.model for shape in SHAPES} == set(KINDS)
    units = [
        terms(recipe, calibration._schema(shape), calibration._workload(shape, recipe))
        for shape in SHAPES
        for recipe in [load_recipe(shape.model, {"batch_size": shape.rows, **shape.overrides})]
    ]
    assert all(any(found.get(name) for found in units) for name in {name for found in units for name in found})


def test_a_calibration_is_measured_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    def measured(machine: str) -> Calibration:
        calls.append(machine)
        return MADE

    monkeypatch.setattr(calibration, "_measured_apart", measured)
    assert calibration_of(tmp_path, MACHINE) == calibration_of(tmp_path, MACHINE) == MADE
    assert calls == [MACHINE.machine]
    file = tmp_path / "calibration" / f"{MACHINE.machine}.json"
    for damaged in ("", "{}", "[1]", replace(MADE, made_with="before").to_json()):
        file.write_text(damaged)
        assert calibration_of(tmp_path, MACHINE) == MADE
    assert len(calls) == 5 and sorted(p.name for p in file.parent.iterdir()) == [file.name]


def test_rows_of_a_calibration_are_read_like_those_of_a_day() -> None:
    fresh = next(shape for shape in SHAPES if shape.fresh)
    rows = calibration._rows(fresh, 1)
    batches = rows.single.reshape(calibration.BATCHES, -1)
    assert all(low.max() < high.min() for low, high in pairwise(batches)), "a batch has only new ids"
    assert batches.min() > calibration._rows(fresh, 0).single.max()
    same = calibration._rows(SHAPES[0], 1)
    assert len(same) == calibration.BATCHES * SHAPES[0].rows and same.single.max() < SHAPES[0].ids + 2


def test_a_failed_measurement_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration.sys, "executable", "/bin/false")
    with pytest.raises(RuntimeError, match="failed with status 1"):
        calibration_of(tmp_path, MACHINE)
