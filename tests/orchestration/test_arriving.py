"""`make online` follows the stream folder of a dataset that has one."""

from __future__ import annotations

from io import StringIO
from pathlib import Path

import click
import pytest
from rich.console import Console
from upath import UPath

from ml.lake import Lake
from ml.online import arriving_day as module
from ml.online.stream import StreamFolder, stream_folder
from ml.recipes.recipe import Recipe
from ml.sync.folder import SyncFolder
from ml.sync.receiver import Receiver
from orchestration.arriving import follow_stream, stream_of
from tests.helpers.arriving import DAYS, SPEC, recipe, write_files
from tests.helpers.interrupted_streams import interrupt_when_waiting
from tests.helpers.joined_logs import feed


def small(*_: object) -> Recipe:
    return recipe()


def follow_once(folder: Path) -> str:
    stream = StreamFolder.of(SPEC, stream_folder(UPath(folder), SPEC.name))
    sync, out = SyncFolder.at(folder / "sync"), StringIO()
    console = Console(file=out, width=400, highlight=False)
    follow_stream(SPEC, "dlrm", Lake.at(folder / "lake"), stream, sync, Receiver(sync, "made"), console)
    return out.getvalue()


def test_each_slice_is_a_line_and_ctrl_c_ends_cleanly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "recipe_in_use", small)
    interrupt_when_waiting(monkeypatch)
    root = stream_folder(UPath(tmp_path), SPEC.name)
    write_files(root, 0, 3)
    said = follow_once(tmp_path).splitlines()
    assert "Ctrl-C stops" in said[0] and said[1].startswith("until (UTC)")
    assert [row.split()[:3] for row in said[2:5]] == [
        ["2026-01-01", f"00:0{minute}", str(n)] for n, minute in enumerate((1, 2, 3), 1)
    ]
    assert said[5].startswith(f"waiting for files in {root}")
    write_files(root, 0, 4)
    assert [row.split()[2] for row in follow_once(tmp_path).splitlines()[2:-1]] == ["4"]


def test_a_day_without_a_state_to_start_from_names_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "recipe_in_use", small)
    write_files(stream_folder(UPath(tmp_path), SPEC.name), 1, 1)
    with pytest.raises(
        click.ClickException, match=f"tuned_models/dlrm of {DAYS[0]} is not in the lake.*dagster asset materialize"
    ):
        follow_once(tmp_path)


def test_a_dataset_without_a_stream_folder_replays_its_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVERGREEN_HOME", str(tmp_path))
    assert stream_of(SPEC) is None
    stream_folder(UPath(tmp_path), SPEC.name).mkdir(parents=True)
    found = stream_of(SPEC)
    assert found is not None and found.root.exists() and not found.in_order


def test_a_joined_stream_is_followed_before_its_first_example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The day of the log is still being joined, so a replay would train on a day without rows."""
    monkeypatch.setenv("EVERGREEN_HOME", str(tmp_path))
    spec = feed()
    assert stream_of(spec) is None, "there is no stream, so the log's days are replayed"
    (tmp_path / "stream" / "feed" / "impressions").mkdir(parents=True)
    stream = stream_of(spec)
    assert stream is not None and not stream.root.exists()
    interrupt_when_waiting(monkeypatch)
    out, sync = StringIO(), SyncFolder.at(tmp_path / "sync")
    console = Console(file=out, width=400, highlight=False)
    follow_stream(spec, "dlrm", Lake.at(tmp_path / "lake"), stream, sync, Receiver(sync, "made"), console)
    said = out.getvalue()
    assert "has no examples yet; `make join DATASET=feed` joins them" in said
    assert f"waiting for files in {stream.root}" in said
