from __future__ import annotations

import numpy as np
import pytest

from ml.advisor.fit_rates import fit_rates
from ml.advisor.shapes import FURTHER_SHAPES, SHAPES
from ml.advisor.typical_rates import TYPICAL_RATES

UNITS = [shape.units for shape in SHAPES]


def seconds(units: list[dict[str, float]], rates: dict[str, float]) -> list[float]:
    return [sum(number * rates[name] for name, number in each.items()) for each in units]


@pytest.mark.parametrize("factor", [0.2, 1.0, 7.0])
def test_a_machine_of_typical_proportions_is_found_exactly(factor: float) -> None:
    rates = {name: factor * rate for name, rate in TYPICAL_RATES.items()}
    found, error = fit_rates(UNITS, seconds(UNITS, rates))
    assert found == pytest.approx(rates) and error == pytest.approx(0, abs=1e-6)


def test_a_machine_of_other_proportions_is_found() -> None:
    rates = {name: 3 * rate * (4 if name == "flops_float32" else 1) for name, rate in TYPICAL_RATES.items()}
    found, error = fit_rates(UNITS, seconds(UNITS, rates))
    typical = TYPICAL_RATES["flops_float32"] / TYPICAL_RATES["flops_bfloat16"]
    assert error < 0.06 and found["flops_float32"] / found["flops_bfloat16"] > 1.5 * typical


@pytest.mark.parametrize("seed", range(20))
def test_trainings_that_were_not_timed_are_predicted_from_noisy_times(seed: int) -> None:
    generator = np.random.default_rng(seed)
    rates = {name: rate * generator.lognormal(0.5, 0.3) for name, rate in TYPICAL_RATES.items()}
    found, _ = fit_rates(UNITS, [time * generator.lognormal(0, 0.1) for time in seconds(UNITS, rates)])
    others = [shape.units for shape in FURTHER_SHAPES]
    assert all(rate >= 0 for rate in found.values())
    assert np.allclose(np.log(seconds(others, found)), np.log(seconds(others, rates)), atol=np.log(1.5))


def test_a_rate_that_no_time_depends_on_has_its_typical_proportion() -> None:
    found, _ = fit_rates([{"steps": 2.0}], [2 * 5 * TYPICAL_RATES["steps"]])
    assert found == pytest.approx({name: 5 * rate for name, rate in TYPICAL_RATES.items()})
