"""Models of another process: their predictions after deltas and new exports, and the memory of those that were replaced."""

from __future__ import annotations

import gc
import shutil
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from ml.artifacts.bundle import Bundle
from ml.days import day_bounds
from ml.embeddings.inference.shared.epochs import SharedEpochs
from ml.lake import Lake
from ml.serving.models import ExportedModel, NewestModel
from ml.serving.processes import shared_models
from ml.serving.processes.shared_models import AttachedModels, SharedModels
from ml.sync.receiver import Receiver
from tests.helpers.sync_runs import Run
from tests.helpers.training_days import make_batches
from tests.helpers.training_states import SCHEMA
from tests.ml.serving.test_models import FIRST, SECOND, SPEC, export

[BATCH] = make_batches(SCHEMA, 1, seed=9)
END = day_bounds(FIRST, SPEC.zone)[1]


class Service:
    """A model that is shared, and a worker that has attached it. Both are in this process."""

    def __init__(self, root: Path) -> None:
        self.lake, self.run = Lake.at(root / "lake"), Run(root / "sync")
        export(self.lake, FIRST, self.run)
        self.model = NewestModel(ExportedModel(self.lake, SPEC, "dlrm"), Receiver(self.run.folder, "server"), SPEC, "dlrm")
        epochs = SharedEpochs.create(2)
        self.shared = SharedModels({"dlrm": self.model}, epochs)
        self.worker = AttachedModels(self.shared.handle, SharedEpochs.attach(epochs.handle, process=1))

    @property
    def attached(self) -> Any:
        return self.worker.by_name["dlrm"]

    def train(self) -> None:
        """Publish a delta, and apply it."""
        version = self.run.publisher.version
        self.run.train()
        self.run.publisher.publish((END + version, END + version + 1))
        self.run._note()
        assert self.model.poll()

    def publish(self) -> None:
        self.shared.publish()
        self.worker.refresh()


def predicted(bundle: Bundle) -> np.ndarray:
    return bundle.score(BATCH)


def shared_ranges() -> int:
    """Number of shared ranges that this process has open."""
    found = 0
    for fd in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            found += str(fd.readlink()).startswith("/memfd:evergreen-")
    return found


def test_an_attached_model_predicts_as_the_one_that_is_kept_up_to_date(tmp_path: Path) -> None:
    service = Service(tmp_path)
    before = predicted(service.model.bundle)
    assert np.array_equal(predicted(service.attached.bundle), before)
    for version in ("1", "2"):
        service.train()
        is_delta = version == "2"  # version 1 is served from the snapshot of the sync folder, not from the export
        assert bool(service.attached.bundle.predictor.changes) == is_delta, "rows of the next version"
        service.publish()
        found = predicted(service.attached.bundle)
        assert np.array_equal(found, predicted(service.model.bundle)) and not np.array_equal(found, before)
        assert service.attached.version == service.model.version and service.attached.version.version == version
        assert service.attached.bundle.predictor.changes == 0
        before = found


def test_a_new_export_leaves_the_last_one_to_those_who_still_predict_with_it(tmp_path: Path) -> None:
    service = Service(tmp_path)
    service.train()
    service.publish()
    gc.collect()
    held, ranges = service.attached.bundle, shared_ranges()
    before = predicted(held)
    service.run.train()
    export(service.lake, SECOND, service.run)
    assert service.model.poll()
    service.publish()
    new = service.attached.bundle
    assert service.attached.version.version == SECOND and np.array_equal(predicted(new), predicted(service.model.bundle))
    assert np.array_equal(predicted(held), before) and not np.array_equal(predicted(new), before)
    gc.collect()
    assert shared_ranges() > ranges
    del held
    gc.collect()
    assert shared_ranges() == ranges, "memory of the last export remains"


def test_the_lag_grows_without_a_publication(tmp_path: Path) -> None:
    service = Service(tmp_path)
    service.train()
    assert service.model.version.lag_seconds == 0.0
    service.run.advance()
    shutil.rmtree(service.run.package("delta", service.run.publisher.version))
    service.model.poll()
    service.publish()
    found = [service.attached.version for _ in range(2)]
    assert 0 < found[0].lag_seconds < found[1].lag_seconds
    assert found[1].lag_seconds <= service.model.version.lag_seconds, "both count from the same instant"
    assert found[0].refused == service.model.version.refused == {"missing": 1}


def test_a_model_is_behind_while_nobody_looks_for_new_versions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(time=time.time, monotonic=lambda: now)
    monkeypatch.setattr(shared_models, "time", clock)
    now = 100.0
    service = Service(tmp_path)
    found = list[float]()
    for now in (109.0, 111.0, 160.0):  # noqa: B007 (the clock reads it)
        found.append(service.attached.version.lag_seconds)
    assert found == [0.0, 11.0, 60.0], "a short poll is no lag"
    service.publish()
    assert service.attached.version.lag_seconds == 0.0


def test_a_worker_that_fails_to_follow_tries_less_and_less_often(tmp_path: Path) -> None:
    class Stop(threading.Event):
        """Set after nine waits, which take no time."""

        def wait(self, timeout: float | None = None) -> bool:
            pauses.append(timeout)
            return len(pauses) == 10

    pauses, service = list[float | None](), Service(tmp_path)
    service.train()
    service.shared.publish()
    service.shared._held.clear()  # the memory of the models is gone
    service.worker.follow(Stop())
    assert pauses == [0.02 * 2**n for n in range(8)] + [5.0, 5.0]
