"""A model that loses to a baseline, or whose probabilities are off, is warned of; a first day is not."""

import pytest

from assets.report_checks import judge


def figures(auc: float | None, beats: dict[str, bool | None], calibration: float | None) -> dict:
    return {
        "model": {"auc": auc, "calibration": calibration},
        "baselines": {"constant_prior": {"auc": 0.5}, "logistic_regression": {"auc": 0.7}},
        "beats": beats,
    }


@pytest.mark.parametrize(
    ("found", "passed"),
    [
        (figures(0.75, {"constant_prior": True, "logistic_regression": True}, 1.0), (True, True)),
        (figures(0.65, {"constant_prior": True, "logistic_regression": False}, 1.0), (False, True)),
        (figures(0.75, {"constant_prior": True, "logistic_regression": True}, 1.7), (True, False)),
        (figures(None, {"constant_prior": None, "logistic_regression": None}, None), (True, True)),
    ],
)
def test_judgement(found: dict, passed: tuple[bool, bool]):
    verdict = judge(found)
    assert (verdict["beats_baselines"][0], verdict["calibrated"][0]) == passed
