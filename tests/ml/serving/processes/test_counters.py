"""Counters of several processes: their sum, memory that is reserved, and nothing that is left over."""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, Counter
from prometheus_client.multiprocess import MultiProcessCollector

from ml.serving.processes import counters
from ml.serving.processes.counters import ROOT, VARIABLE, count_together, counter_files


def count(folder: Path, worker: int, labels: int) -> None:
    """Count each label once."""
    count_together(folder, worker)
    counter = Counter("evergreen_seen", "Seen.", ["label"], registry=None)
    for label in range(labels):
        counter.labels(label).inc()


def counted(folder: Path, label: int) -> float | None:
    registry = CollectorRegistry()
    MultiProcessCollector(registry, str(folder))
    return registry.get_sample_value("evergreen_seen_total", {"label": str(label)})


def reserved(folder: Path) -> int:
    """Memory of the files in bytes."""
    return sum(file.stat().st_blocks * 512 for file in folder.iterdir())


def test_workers_count_together_in_memory_that_was_reserved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = tmp_path / "own"
    own.mkdir()
    monkeypatch.setenv(VARIABLE, str(own))
    context = multiprocessing.get_context("spawn")
    with counter_files(tmp_path, workers=2) as folder:
        assert folder.stat().st_mode & 0o777 == 0o700 and folder.is_relative_to(ROOT)
        before = reserved(folder)
        assert before >= 4 * counters.BYTES
        for worker, labels in ((0, 2_000), (1, 20), (0, 20)):  # the first one is started again
            process = context.Process(target=count, args=(folder, worker, labels))
            process.start()
            process.join()
            assert process.exitcode == 0
        assert [counted(folder, label) for label in (7, 1_999)] == [3.0, 1.0]
        assert reserved(folder) == before, "no page was taken later"
    assert not folder.exists()
    assert not list(own.iterdir()) and os.environ[VARIABLE] == str(own), "the folder of the user"


def test_what_a_killed_service_has_left_is_removed(tmp_path: Path) -> None:
    with counter_files(tmp_path, workers=1) as folder:
        (folder / "counter_9.db").write_bytes(b"left")
        with counter_files(tmp_path, workers=1) as again:
            assert again == folder
            assert sorted(file.name for file in again.iterdir()) == ["counter_0.db", "histogram_0.db"]


def test_too_little_memory_is_found_before_a_worker_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counters, "BYTES", 1 << 60)
    with pytest.raises(OSError, match=r"counters of 2 processes need .* MiB of memory in"), counter_files(tmp_path, 2):
        pytest.fail("there is not so much memory")
    place = tmp_path.stat()
    assert not (ROOT / f"evergreen-counters-{place.st_dev:x}-{place.st_ino:x}").exists()
