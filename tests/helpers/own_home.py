"""The environment of commands that run with an Evergreen home and a catalog of their own."""

from __future__ import annotations

import os
from pathlib import Path

from tests.helpers.paths import ROOT


def own_home(home: Path, catalog: Path) -> dict[str, str]:
    """Return environment variables for a subprocess.

    Args:
        home: The home, which need not exist yet.
        catalog: Folder of the datasets' YAML files. The landing folder is beside it, so that several homes can share it:
            manifests contain the stamps of log files.
    """
    return os.environ | {
        "EVERGREEN_HOME": str(home),
        "EVERGREEN_CATALOG": str(catalog),
        "EVERGREEN_LANDING": str(catalog.parent / "landing"),
        "EVERGREEN_DAGSTER": str(home / "dagster"),
        "EVERGREEN_SPARK_MASTER": "none",
        "DAGSTER_HOME": str(ROOT),
    }
