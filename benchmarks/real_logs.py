"""Finds real logs in the landing folder, where `make demo DATASET=criteo LOGS=<folder>` links them, or in LOGS."""

from __future__ import annotations

import os
from pathlib import Path

LOG = "train.txt.gz"


class NoRealLogs(FileNotFoundError):
    """A benchmark needs a real log that is not on this machine."""


def criteo_folder() -> Path:
    """Find the folder with Criteo's `train.txt.gz`.

    Raises:
        NoRealLogs: The log was not found; the message names the folders that were searched.
    """
    home = Path(os.environ.get("EVERGREEN_HOME") or ".evergreen")
    places = [Path(os.environ.get("EVERGREEN_LANDING") or home / "landing") / "criteo"]
    if given := os.environ.get("EVERGREEN_REAL_LOGS"):
        places += [Path(given), Path(given) / "criteo"]
    for place in places:
        if (place / LOG).is_file():
            return place
    where = " or ".join(str(place / LOG) for place in places)
    raise NoRealLogs(f"needs Criteo's log, but {where} does not exist: make bench LOGS=<folder with {LOG}>")
