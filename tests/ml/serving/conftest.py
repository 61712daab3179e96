from __future__ import annotations

from pathlib import Path

import pytest
from upath import UPath

from ml.lake import Lake
from ml.serving.engine import Engine
from ml.serving.start import start
from tests.helpers.kiosk_lake import kiosk_lake, spec_of


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return kiosk_lake(tmp_path / "lake")


@pytest.fixture
def engine(lake: Lake, tmp_path: Path) -> Engine:
    return start(spec_of(), lake, UPath(tmp_path / "stream"))
