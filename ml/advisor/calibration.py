"""Measures how fast this machine trains: seconds per unit of each term of `ml.advisor.cost`.

The calibration trains small models of several shapes on random data, a few seconds in all, and solves for the rates that
explain the measured times best. It runs in a process of its own, so that other work of the calling process does not change what
it measures, and is stored once for each kind of machine and version of the libraries.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Self

import psutil

from ml.advisor.cost import Speed
from ml.advisor.fit_rates import fit_rates
from ml.advisor.hardware import Hardware, detect
from ml.advisor.shapes import SHAPES
from ml.advisor.timed_training import BATCHES, Shape, Training, typical_seconds
from ml.advisor.typical_rates import TYPICAL_BASE_BYTES, TYPICAL_RATES
from ml.advisor.wishes import Wishes
from ml.disk import replace_text
from ml.training.loop import threads

VERSION = 5  # increase it with a change of the terms or of what is measured
REPEATS = 3


@dataclass(frozen=True)
class Calibration:
    """Speed of one core of a machine.

    Attributes:
        machine: `Hardware.machine` of the machine.
        made_with: Versions of what was measured. A calibration that was made with others is measured again.
        speed: Its speed.
        error: Root mean square of the relative errors of the fit.
    """

    machine: str
    made_with: str
    speed: Speed
    error: float

    def to_json(self) -> str:
        """Return JSON text."""
        return json.dumps(asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what `to_json` has written."""
        data = json.loads(text)
        return cls(**data | {"speed": Speed(**data["speed"])})


def calibration_of(home: Path, hardware: Hardware | None = None) -> Calibration:
    """Return the calibration of this machine. It is measured if it is not stored yet.

    Args:
        home: Folder where calibrations are stored, as `calibration/<machine>.json`.
        hardware: This machine; by default, it is detected.

    Returns:
        The stored or new calibration.

    Raises:
        RuntimeError: The measurement failed; the message has its output.
    """
    machine = (hardware or detect()).machine
    if (stored := stored_calibration(home, machine)) is not None:
        return stored
    found = _measured_apart(machine)
    replace_text(_file(home, machine), found.to_json())
    return found


def calibration_for(wishes: Wishes, hardware: Hardware, home: Path | None) -> Calibration:
    """Return the speed with which wishes are judged.

    This machine is calibrated only for a wish about time, which takes some seconds once. Typical rates suffice for memory.

    Args:
        wishes: The wishes.
        hardware: This machine.
        home: Folder of the calibrations; None to use typical rates.
    """
    if home is not None and wishes.seconds is not None:
        return calibration_of(home, hardware)
    stored = stored_calibration(home, hardware.machine) if home is not None else None
    return stored or Calibration(hardware.machine, "typical rates", Speed(TYPICAL_RATES, 0.0, TYPICAL_BASE_BYTES), 0.0)


def stored_calibration(home: Path, machine: str) -> Calibration | None:
    """Return the stored calibration of a machine; None if there is none for these versions. Nothing is measured."""
    try:
        stored = Calibration.from_json(_file(home, machine).read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError, KeyError):
        return None  # absent, damaged, or of another version
    return stored if (stored.machine, stored.made_with) == (machine, made_with()) else None


def _file(home: Path, machine: str) -> Path:
    return home / "calibration" / f"{machine}.json"


@cache
def made_with() -> str:
    """Return the versions that a calibration depends on."""
    return f"{VERSION} torch {version('torch')} numba {version('numba')}"


def measure(machine: str, shapes: Sequence[Shape] = SHAPES) -> Calibration:
    """Measure this machine with one thread. It takes a few seconds.

    Args:
        machine: `Hardware.machine` of this machine.
        shapes: What to train; the first shows what a process takes.

    Returns:
        The calibration.
    """
    with threads(1):
        first = Training(shapes[0])
        base = psutil.Process().memory_info().rss
        trainings = [first, *(Training(shape) for shape in shapes[1:])]
        times = typical_seconds(trainings, REPEATS)
    rates, error = fit_rates([training.shape.units for training in trainings], times)
    start = max(0.0, first.first_seconds - BATCHES * times[0])
    return Calibration(machine, made_with(), Speed(rates, start, base), error)


def _measured_apart(machine: str) -> Calibration:
    """Measure in a new process."""
    done = subprocess.run([sys.executable, "-m", __name__, machine], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"calibration of this machine failed with status {done.returncode}:\n{done.stderr[-2000:]}")
    return Calibration.from_json(done.stdout[done.stdout.index("{") :])


if __name__ == "__main__":
    sys.stdout.write(measure(sys.argv[1]).to_json())
