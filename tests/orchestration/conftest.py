"""A home with a small simulated log, for commands that run in this process."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

from tests.helpers.paths import ROOT


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty home, with a catalog whose only entry is the built-in log with 2,000 rows a day."""
    shutil.copy(ROOT / "dagster.yaml", tmp_path)
    (tmp_path / "dagster").mkdir()
    entry = yaml.safe_load((ROOT / "catalog" / "synthetic.yaml").read_text())
    entry["simulation"]["impressions_per_day"] = 2000
    (tmp_path / "catalog" / "recipes" / "synthetic").mkdir(parents=True)
    (tmp_path / "catalog" / "synthetic.yaml").write_text(yaml.safe_dump(entry, sort_keys=False))
    for name, value in {
        "EVERGREEN_HOME": tmp_path,
        "EVERGREEN_CATALOG": tmp_path / "catalog",
        "EVERGREEN_SPARK_MASTER": "none",
        "DAGSTER_HOME": tmp_path,
        "EVERGREEN_DAGSTER": tmp_path / "dagster",
    }.items():
        monkeypatch.setenv(name, str(value))
    for name in ("EVERGREEN_LAKE", "EVERGREEN_LANDING", "MLFLOW_TRACKING_URI", "EVERGREEN_DASK", "SIGOPT_API_URL"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path
