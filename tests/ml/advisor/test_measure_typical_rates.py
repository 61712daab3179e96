from __future__ import annotations

import pytest

from ml.advisor import measure_typical_rates
from ml.advisor.measure_typical_rates import measure_rates
from ml.advisor.shapes import SHAPES
from ml.advisor.typical_rates import TYPICAL_RATES


def test_every_typical_rate_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure_typical_rates, "SHAPES", SHAPES[:2])
    monkeypatch.setattr(measure_typical_rates, "FURTHER_SHAPES", ())
    rates, error = measure_rates(repeats=1)
    assert list(rates) == list(TYPICAL_RATES) and error < 0.5
    assert all(rate >= 0 for rate in rates.values()) and rates["passes"] > 0 and rates["values"] > 0
