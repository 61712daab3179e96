"""Fixtures that all tests share: the repository's catalog, a temporary lake, a temporary MLflow store, one Spark session."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# Processes that tests start, including Spark's workers, import this checkout and its tests.
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH")]))

from ml.catalog.load import load_catalog
from ml.catalog.spec import DatasetSpec
from ml.lake import Lake

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

# No test depends on time: the machine may be busy, and the first example of a property compiles the kernels that it uses.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")

REAL_LOGS = Path(os.environ.get("EVERGREEN_REAL_LOGS", Path(__file__).parents[2] / "shared" / "data"))


@pytest.fixture(scope="session")
def catalog() -> dict[str, DatasetSpec]:
    return load_catalog()


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake.at(tmp_path / "lake")


@pytest.fixture(scope="session")
def empty_mlflow_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty store, created once, because creating its tables takes seconds."""
    from mlflow.tracking import MlflowClient

    store = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    MlflowClient(f"sqlite:///{store}").search_experiments()
    return store


@pytest.fixture
def mlflow_home(empty_mlflow_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A temporary folder with an MLflow store."""
    import mlflow

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    home = tmp_path / "home"
    home.mkdir()
    shutil.copy(empty_mlflow_store, home / "mlflow.db")
    yield home
    mlflow.set_tracking_uri("")  # otherwise later tests would create a store in the working folder


@pytest.fixture(scope="session")
def real_logs() -> Path:
    """The folder of real logs. Tests that use it are skipped if it does not exist."""
    if not REAL_LOGS.exists():
        pytest.skip(f"no real logs at {REAL_LOGS}")
    return REAL_LOGS


@pytest.fixture(scope="session")
def spark() -> Iterator[SparkSession]:
    from ml.compute.spark import start_session

    session = start_session("local[2]")
    yield session
    session.stop()
