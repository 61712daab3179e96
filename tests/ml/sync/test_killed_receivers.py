"""A receiver that is killed at random moments serves no wrong row after its restarts, and reaches the newest version."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ml.artifacts.bundle import Bundle
from ml.artifacts.weights import quantised_of
from ml.sync.folder import HEAD, SyncFolder
from ml.sync.serving_copy import serving_copy
from tests.helpers.paths import ROOT
from tests.helpers.receiver_process import read_rows
from tests.helpers.sync_runs import Run, copy_package, point_head
from tests.helpers.training_days import made_spec
from tests.helpers.trials import SEED, TRIALS

VERSIONS, KILLS = 24, 3


@pytest.mark.soak
def test_a_receiver_that_is_killed_at_random_moments_serves_only_rows_of_the_trainer(tmp_path: Path) -> None:
    run = Run(tmp_path / "prepared")
    run.keep_all()
    rows = [_rows(run)]
    for _ in range(VERSIONS):
        run.advance()
        rows.append(_rows(run))
        if run.publisher.version % 8 == 0:
            run.snapshot()
    assert any(not torch.equal(a, b) for a, b in zip(rows[0], rows[-1], strict=True)) and quantised_of(
        serving_copy(run.state, "float32").model
    )
    torch.save(torch.stack(rows), tmp_path / "history.pt")
    root, reports = tmp_path / "sync", tmp_path / "reports"
    reports.mkdir()
    copy_package(run.package("snapshot", 0), root / "a1" / "snapshots" / f"{0:010d}")
    point_head(root, "a1", 0, 0)
    command = [sys.executable, "-m", "tests.helpers.receiver_process", str(root), str(tmp_path / "history.pt"), str(reports)]
    process = subprocess.Popen([*command, str(SEED), str(KILLS * TRIALS)], cwd=ROOT)
    try:
        _publish(run, root, process, seconds=6 + 0.4 * KILLS * TRIALS)
        assert process.wait(300) == 0
    finally:
        process.kill()
    faults = [path.read_text() for path in reports.glob("fault-*")]
    assert not faults, faults
    assert (reports / "done").read_text() == str(VERSIONS)
    (own,) = SyncFolder.at(root).acknowledgements()
    assert own.version == VERSIONS


def _rows(run: Run) -> torch.Tensor:
    return read_rows(Bundle(made_spec(), serving_copy(run.state, "float32"), {}))


def _publish(run: Run, root: Path, process: subprocess.Popen[bytes], seconds: float) -> None:
    """Publish the prepared versions while receivers are killed."""
    snapshot = 0
    for version in range(1, VERSIONS + 1):
        copy_package(run.package("delta", version), root / "a1" / "deltas" / f"{version:010d}")
        if run.package("snapshot", version).exists():
            copy_package(run.package("snapshot", version), root / "a1" / "snapshots" / f"{version:010d}")
            snapshot = version
        point_head(root / "aside", "a1", version, snapshot)
        (root / "aside" / HEAD).rename(root / HEAD)
        try:
            process.wait(seconds / VERSIONS)
        except subprocess.TimeoutExpired:
            continue
