"""Fixtures of the advisor's tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.paths import ROOT


@pytest.fixture
def criteo(tmp_path: Path) -> Path:
    """A folder with a copy of Criteo's catalog entry, and an empty folder `recipes/criteo` for edits."""
    (tmp_path / "criteo.yaml").write_text((ROOT / "catalog" / "criteo.yaml").read_text())
    (tmp_path / "recipes" / "criteo").mkdir(parents=True)
    return tmp_path
