"""`make online`: days after the demo are trained online in order, published and shown slice by slice."""

from __future__ import annotations

import re
import signal
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
from click.testing import CliRunner
from upath import UPath

from ml.lake import Lake
from ml.online.live import LiveSlice
from ml.online.stream import stream_folder
from ml.sync.folder import sync_folder
from ml.sync.status import ReceiverStatus
from orchestration import online as module
from orchestration.deployments import sync_root
from orchestration.online import cells, following, header, line, main
from tests.helpers.sync_runs import Run


@pytest.mark.slow
def test_days_after_the_demo_are_trained_online_one_after_the_other(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lake, folder = Lake.at(home), sync_folder(home / "sync", "synthetic", "dlrm")
    for number, day in enumerate(("2026-01-05", "2026-01-06"), 1):
        done = CliRunner().invoke(main, ["synthetic", "--slices", "4"])
        assert done.exit_code == 0, done.output
        said = done.output.splitlines()
        shown = said[said.index(header()) + 1 :]
        assert [line.split()[2] for line in shown[:4]] == ["1", "2", "3", "4"]
        assert shown[4].startswith(f"{day}: AUC online 0.")
        manifest = lake.manifest("online_updates/dlrm", "synthetic", day)
        head = folder.head()
        assert head is not None and head.run_id == manifest["run"]["run_id"]
        assert head.version == head.snapshot == manifest["run"]["version"] == 4 * number
        assert (manifest["scores"]["online"]["auc"] and not lake.has("tuned_models/dlrm", "synthetic", day)) or number == 1
        assert folder.acknowledgements() == [], "a command that has ended lags behind nothing, and needs no packages"
    with monkeypatch.context() as patch:  # Ctrl-C at each slice
        patch.setattr(module, "cells", lambda shown: [signal.raise_signal(signal.SIGINT), *cells(shown)][1:])
        done = CliRunner().invoke(main, ["synthetic", "--slices", "4"])
    assert done.exit_code == 0 and "Aborted" not in done.output, done.output
    assert not lake.has("online_updates/dlrm", "synthetic", "2026-01-07")
    assert any(name.startswith("2026-01-07.") for name in lake.days("online_checkpoints/dlrm", "synthetic"))
    with lake.write("online_updates/dlrm", "synthetic", "2026-01-07") as staging:  # as another `make online` does
        done = CliRunner().invoke(main, ["synthetic", "--slices", "4"])
        lake.write_manifest(staging, {})
    assert done.exit_code == 1 and "2026-01-07 is being written by another run; wait for it" in done.output


def test_a_receiver_that_follows_is_registered_until_the_end_of_the_command(tmp_path: Path) -> None:
    run = Run(tmp_path)
    with pytest.raises(KeyboardInterrupt), following(run.folder, None):
        for _ in range(1000):
            if run.folder.is_registered("make-online"):
                break
            time.sleep(0.01)
        assert [one.name for one in run.folder.acknowledgements()] == ["make-online"]
        raise KeyboardInterrupt
    assert run.folder.acknowledgements() == []


@pytest.mark.parametrize("metric", ["auc", "recall@20"])
def test_a_line_has_a_value_below_each_column(metric: str) -> None:
    names = ("online", "stale", "retrained", *(("popularity",) if metric != "auc" else ()))
    score = dict.fromkeys(names, 0.5) | {"stale": None}
    status = ReceiverStatus("test", None, None, None, None, 0, 0, None, 0.0, {}, None, None, 0, None, {})
    shown = LiveSlice(0, datetime(2026, 1, 2, tzinfo=UTC), 10, 1000.0, metric, score, score, None, status)
    named, values = header(metric), line(shown)
    assert len(named) == len(values)
    ends = [end.end() for end in re.finditer(r"\S+", values) if end.start() >= 16]
    assert all(end == len(named) or named[end] == " " for end in ends) and "–" in values


def test_options_of_a_replay_are_refused_beside_a_stream(home: Path) -> None:
    stream_folder(UPath(home), "synthetic").mkdir(parents=True)
    done = CliRunner().invoke(main, ["synthetic", "--speed", "3600"])
    assert done.exit_code == 2 and "--days, --speed and --slices" in done.output and "stream/synthetic/examples" in done.output


def test_a_model_that_the_dataset_lacks_is_named(home: Path) -> None:
    done = CliRunner().invoke(main, ["synthetic", "--model", "none"])
    assert done.exit_code and "synthetic has no model 'none'; it has dlrm" in done.output


def test_packages_are_published_below_the_home_unless_a_variable_is_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVERGREEN_HOME", str(tmp_path))
    assert sync_root() == str(tmp_path / "sync")
    monkeypatch.setenv("EVERGREEN_SYNC", "memory://elsewhere")
    assert sync_root() == "memory://elsewhere"
