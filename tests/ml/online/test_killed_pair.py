"""A trainer of arriving rows and its receiver, both killed at random moments, with each row checked that is served."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from upath import UPath

from ml.online.stream import stream_folder
from ml.sync.folder import SyncFolder
from tests.helpers.arriving import SPEC, run, write_files
from tests.helpers.killed_pair import history_of
from tests.helpers.paths import ROOT
from tests.helpers.trials import SEED, TRIALS

KILLS = min(50, 4 * TRIALS)
FILES = 8 * KILLS


@pytest.mark.slow
@pytest.mark.soak
def test_a_killed_trainer_and_its_killed_receiver_serve_no_wrong_row_and_lose_nothing(tmp_path: Path) -> None:
    """With strict restarts, the packages of the killed run are those of a run that was not disturbed."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    write_files(stream_folder(UPath(whole), SPEC.name), 0, FILES)
    done = run(whole, FILES)
    assert len(done) == FILES
    history, ids = history_of(whole / "sync", done[0].run_id)
    assert len(history) == FILES + 1 and not torch.equal(history[0], history[-1])
    torch.save((history, ids), tmp_path / "history.pt")
    write_files(UPath(killed / "aside"), 0, FILES)
    stream_folder(UPath(killed), SPEC.name).mkdir(parents=True)
    command = [sys.executable, "-m", "tests.helpers.killed_pair", str(killed), str(tmp_path / "history.pt")]
    subprocess.run([*command, str(SEED), str(KILLS)], cwd=ROOT, check=True)
    faults = [path.read_text() for path in killed.glob("fault-*")]
    assert not faults, faults
    summary = json.loads((killed / "summary.json").read_text())
    assert sum(summary["kills"].values()) == KILLS and summary["recovered"], summary
    assert TRIALS == 1 or summary["behind"] < FILES, "the trainer was killed before it trained on a slice"
    assert json.loads((killed / "refused.json").read_text()) == {}
    assert packages(killed) == packages(whole)


def packages(folder: Path) -> dict[str, str]:
    """Contents of all packages by name."""
    sync = SyncFolder.at(folder / "sync")
    found = [sync.manifest(run_id, "delta", v) for run_id in sync.runs() for v in sync.versions(run_id, "delta")]
    return {manifest.name: manifest.contents for manifest in found}
