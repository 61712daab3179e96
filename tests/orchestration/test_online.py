"""`make online`: days after the demo are trained online in order, published and shown slice by slice."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from ml.lake import Lake
from ml.sync.folder import default_sync_folder
from orchestration.online import HEADER, main


@pytest.mark.slow
def test_days_after_the_demo_are_trained_online_one_after_the_other(home: Path) -> None:
    lake, folder = Lake.at(home), default_sync_folder(home, "synthetic", "dlrm")
    for number, day in enumerate(("2026-01-05", "2026-01-06"), 1):
        done = CliRunner().invoke(main, ["synthetic", "--slices", "4"])
        assert done.exit_code == 0, done.output
        said = done.output.splitlines()
        shown = said[said.index(HEADER) + 1 :]
        assert [line.split()[2] for line in shown[:4]] == ["1", "2", "3", "4"]
        assert shown[4].startswith(f"{day}: AUC online 0.")
        manifest = lake.manifest("online_updates/dlrm", "synthetic", day)
        head = folder.head()
        assert head is not None and head.run_id == manifest["run"]["run_id"]
        assert head.version == head.snapshot == manifest["run"]["version"] == 4 * number
        assert (manifest["scores"]["online"]["auc"] and not lake.has("tuned_models/dlrm", "synthetic", day)) or number == 1
        assert [one.version for one in folder.acknowledgements()] == [head.version]


def test_a_model_that_the_dataset_lacks_is_named(home: Path) -> None:
    done = CliRunner().invoke(main, ["synthetic", "--model", "none"])
    assert done.exit_code and "synthetic has no model 'none'; it has dlrm" in done.output
