from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest

from ml.advisor import calibration
from ml.advisor.calibration import Calibration, calibration_of, made_with, measure
from ml.advisor.cost import READING_TERMS, Speed
from ml.advisor.hardware import Hardware
from ml.advisor.shapes import SHAPES
from ml.advisor.typical_rates import TYPICAL_RATES

MACHINE = Hardware("a processor", 2.0, 8 << 30)
MADE = Calibration(MACHINE.machine, made_with(), Speed({"steps": 0.001}, 0.5, 500_000_000), 0.1)


def test_measuring_gives_the_rate_of_every_term() -> None:
    found = measure("m", SHAPES[:2])
    rates = found.speed.rates
    assert found.machine == "m" and found.speed.base_bytes > 100_000_000 and found.speed.start_seconds > 0
    assert set(rates) == set(TYPICAL_RATES) and all(rate >= 0 for rate in rates.values())
    assert rates["steps"] > 0 and all(rates[name] > 0 for name in READING_TERMS)
    assert found.error < 0.5


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


def test_two_processes_can_calibrate_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    both_have_written, write = Barrier(2), Path.write_text

    def write_and_wait(self: Path, *args: Any, **options: Any) -> int:
        size = write(self, *args, **options)
        both_have_written.wait(timeout=10)
        return size

    monkeypatch.setattr(Path, "write_text", write_and_wait)
    monkeypatch.setattr(calibration, "_measured_apart", lambda machine: MADE)
    with ThreadPoolExecutor(2) as threads:
        assert list(threads.map(lambda _: calibration_of(tmp_path, MACHINE), range(2))) == [MADE, MADE]
    assert calibration.stored_calibration(tmp_path, MACHINE.machine) == MADE


def test_a_failed_measurement_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration.sys, "executable", "/bin/false")
    with pytest.raises(RuntimeError, match="failed with status 1"):
        calibration_of(tmp_path, MACHINE)
