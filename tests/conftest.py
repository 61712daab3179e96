"""Fixtures that every room's tests share: the repository's catalog, a lake in a temporary folder, one Spark session."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from ml.catalog.load import load_catalog
from ml.catalog.spec import DatasetSpec
from ml.lake import Lake

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

REAL_LOGS = Path(os.environ.get("EVERGREEN_REAL_LOGS", Path(__file__).parents[2] / "shared" / "data"))


@pytest.fixture(scope="session")
def catalog() -> dict[str, DatasetSpec]:
    return load_catalog()


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake.at(tmp_path / "lake")


@pytest.fixture(scope="session")
def real_logs() -> Path:
    """The folder of real logs; tests that ask for it are skipped where there is none."""
    if not REAL_LOGS.exists():
        pytest.skip(f"no real logs at {REAL_LOGS}")
    return REAL_LOGS


@pytest.fixture(scope="session")
def spark() -> Iterator[SparkSession]:
    from ml.spark import start_session

    session = start_session("local[2]")
    yield session
    session.stop()
