"""Prints rates for `ml.advisor.typical_rates`, from more shapes and repetitions than a calibration. It takes half a minute.

python -m ml.advisor.measure_typical_rates
"""

from __future__ import annotations

import sys

from ml.advisor.fit_rates import fit_rates
from ml.advisor.shapes import FURTHER_SHAPES, SHAPES
from ml.advisor.timed_reading import measure_reading
from ml.advisor.timed_training import Training, typical_seconds
from ml.training.loop import threads

REPEATS = 15


def measure_rates(repeats: int = REPEATS) -> tuple[dict[str, float], float]:
    """Measure this machine with one thread.

    Args:
        repeats: Repetitions, of which the median counts.

    Returns:
        Seconds per unit of each term, and the root mean square of the relative errors of the times of trainings.
    """
    with threads(1):
        trainings = [Training(shape) for shape in (*SHAPES, *FURTHER_SHAPES)]
        times = typical_seconds(trainings, repeats)
        reading = measure_reading()
    rates, error = fit_rates([training.shape.units for training in trainings], times)
    return rates | {"passes": reading.seconds_per_pass, "values": reading.seconds_per_value}, error


if __name__ == "__main__":
    found, error = measure_rates()
    sys.stdout.writelines(f'        "{name}": {rate:.1e},\n' for name, rate in found.items())
    sys.stdout.write(f"# relative error of the times: {error:.0%}\n")
