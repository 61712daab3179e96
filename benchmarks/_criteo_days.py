"""Criteo's sample as MDS data in a temporary lake, for benchmarks that train."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.real_logs import criteo_folder
from ml.catalog.load import load_catalog
from ml.catalog.spec import DatasetSpec
from ml.compute.runner import LocalRunner
from ml.datasets.write import write_day
from ml.features.clean import clean_day
from ml.lake import Lake
from ml.logs.ingest import ingest_day

ALL = ("train", "validation", "test")


@contextmanager
def criteo_days() -> Iterator[tuple[DatasetSpec, Lake]]:
    """Yield the dataset, and a lake with its seven days, which is deleted afterwards.

    Raises:
        NoRealLogs: Criteo's log is not on this machine.
    """
    logs = criteo_folder()
    spec = load_catalog()["criteo"]
    with tempfile.TemporaryDirectory() as folder:
        lake = Lake.at(folder)
        for day in spec.days():
            ingest_day(spec.log, day, str(logs), lake, LocalRunner())
            clean_day(spec, day, lake, str(logs), LocalRunner())
            write_day(spec, day, lake, LocalRunner())
        yield spec, lake
