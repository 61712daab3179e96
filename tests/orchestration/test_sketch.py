"""The command that sketches an entry: it writes a file once, and says what is left to do."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from click.testing import CliRunner

from ml.catalog.load import load_dataset
from orchestration.sketch import main
from tests.helpers.markdown import blocks_of
from tests.helpers.paths import ROOT
from tests.helpers.unknown_logs import daily_events


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    logs = tmp_path / "Shop logs"
    logs.mkdir()
    daily_events(logs, random.Random(1))
    monkeypatch.setenv("EVERGREEN_CATALOG", str(tmp_path / "catalog"))
    return logs


def test_an_entry_is_written_and_never_replaced(folder: Path) -> None:
    done = CliRunner().invoke(main, [str(folder)])
    path = folder.parent / "catalog" / "shop_logs.yaml"
    assert done.exit_code == 0, done.output
    assert f"Wrote {path}" in done.output and f"make demo DATASET=shop_logs LOGS={folder}" in done.output
    spec, text = load_dataset(path), path.read_text()
    assert spec.days() == ["2025-03-01", "2025-03-02", "2025-03-03"]
    again = CliRunner().invoke(main, [str(folder)])
    assert again.exit_code == 1 and "exists and is not overwritten" in again.output and path.read_text() == text
    other = CliRunner().invoke(main, [str(folder), "--name", "other", "--timezone", "Europe/Berlin"])
    assert other.exit_code == 0 and load_dataset(path.with_stem("other")).time.timezone == "Europe/Berlin"


def test_an_entry_can_be_printed_alone(folder: Path) -> None:
    done = CliRunner().invoke(main, [str(folder), "--print"])
    assert done.exit_code == 0 and done.output.startswith("# A first entry") and not (folder.parent / "catalog").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--name", "Shop"], "expected lower-case letters"),
        (["--timezone", "Mars"], "not an IANA time zone"),
    ],
)
def test_wrong_arguments_are_refused(folder: Path, arguments: list[str], message: str) -> None:
    done = CliRunner().invoke(main, [str(folder), *arguments])
    assert done.exit_code == 2 and message in done.output


def test_a_missing_folder_is_named(folder: Path) -> None:
    done = CliRunner().invoke(main, [str(folder / "gone")])
    assert done.exit_code == 1 and "no such folder" in done.output


def test_the_entry_of_the_tutorial_is_what_the_command_prints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = blocks_of(ROOT / "docs" / "tutorial.md")
    monkeypatch.chdir(tmp_path)
    exec(next(block.text for block in blocks if 'folder = Path("visits")' in block.text), {})
    printed = CliRunner().invoke(main, ["visits", "--print"]).output
    assert next(block.text for block in blocks if block.text.startswith("# A first entry")).strip() == printed.strip()
