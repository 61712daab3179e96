"""The study of late labels on made days."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from ml.lake import Lake
from ml.online.late_labels import CHOICES
from ml.studies.delayed_labels import STALE, Run, run_study, summary, write_study
from tests.helpers.training_days import made_spec, small_recipe, write_days


def test_without_a_delay_ignoring_knows_what_the_oracle_knows(lake: Lake, tmp_path: Path) -> None:
    spec = made_spec()
    days = write_days(lake, spec, 3, 600)
    runs = run_study(
        spec, lake, days[:2], days[2:], lambda seed: small_recipe(seed=seed), delays=[1e-12, 1e6], slices=4, seeds=2
    )
    found = {(of["choice"], of["delay"]): of for of in write_study(tmp_path, runs)}
    assert found.keys() == {(choice, delay) for choice in (STALE, *CHOICES) for delay in (1e-12, 1e6)}
    assert found["ignore", 1e-12]["auc"] == pytest.approx(found["oracle", 1e-12]["auc"], abs=1e-9)
    assert found["oracle", 1e-12]["auc"] == found["oracle", 1e6]["auc"]
    assert found["ignore", 1e6]["calibration"] < found["oracle", 1e6]["calibration"], "late clicks were taken for negatives"
    assert json.loads((tmp_path / "summary.json").read_text()) == list(found.values())
    assert (tmp_path / "auc.png").read_bytes().startswith(b"\x89PNG")


def test_differences_are_taken_seed_by_seed() -> None:
    runs = [
        Run(c, 1.0, s, 0.7 + s / 10 - lost, 0.5 + lost, 1.0) for s in range(2) for c, lost in (("oracle", 0.0), ("wait", 0.01))
    ]
    wait = summary(runs)[1]
    assert wait["auc_to_oracle"] == pytest.approx(-0.01) and wait["auc_spread"] == pytest.approx(0, abs=1e-12)
    assert np.sign(wait["log_loss_to_oracle"]) == -1
