"""Criteo's sample as MDS data in a lake of its own, for benchmarks that train."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ml.catalog.load import load_catalog
from ml.catalog.spec import DatasetSpec
from ml.compute.runner import LocalRunner
from ml.datasets.write import write_day
from ml.features.clean import clean_day
from ml.lake import Lake
from ml.logs.ingest import ingest_day

ALL = ("train", "validation", "test")


@contextmanager
def criteo_days() -> Iterator[tuple[DatasetSpec, Lake] | None]:
    """The dataset and a lake with its seven days; None, and a word on why, where the logs are not in the landing folder."""
    home = Path(os.environ.get("EVERGREEN_HOME") or ".evergreen")
    logs = Path(os.environ.get("EVERGREEN_LANDING") or home / "landing") / "criteo"
    if not logs.exists():
        print(f"{logs} is not there; make demo DATASET=criteo LOGS=<folder> puts it there")
        yield None
        return
    spec = load_catalog()["criteo"]
    with tempfile.TemporaryDirectory() as folder:
        lake = Lake.at(folder)
        for day in spec.days():
            ingest_day(spec.log, day, str(logs), lake, LocalRunner())
            clean_day(spec, day, lake, str(logs), LocalRunner())
            write_day(spec, day, lake, LocalRunner())
        yield spec, lake
