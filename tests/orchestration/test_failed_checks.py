"""A failed blocking check is printed once, with what a user needs to act on it."""

import re
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from click.testing import CliRunner

from assets.partitions import daily
from ml.catalog.load import Catalog
from ml.catalog.spec import DatasetSpec
from orchestration import replay
from orchestration.jobs import job_name
from tests.helpers.small_logs import write_log


def printed(
    entry: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    exit_code: int = 1,
) -> str:
    """Everything that a replay of the first day prints."""
    for name, value in {
        "EVERGREEN_HOME": str(tmp_path / "home"),
        "DAGSTER_HOME": str(tmp_path),
        "EVERGREEN_DAGSTER": str(tmp_path / "home" / "dagster"),
        "EVERGREEN_SPARK_MASTER": "none",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(replay, "catalog", lambda: Catalog({entry["name"]: DatasetSpec.model_validate(entry)}, {}))
    monkeypatch.setattr("ml.preflight.check.preflight", lambda spec, folder: [])  # a check finds what no sample held
    done = CliRunner().invoke(replay.main, [entry["name"], "--to", entry["partitions"]["start"]])
    assert done.exit_code == exit_code, done.output
    return done.output + "".join(capfd.readouterr())


def test_malformed_lines_are_named_with_file_and_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "home" / "landing" / "ratings"
    entry = write_log("ratings", folder, 0)
    lines = (folder / "u.data").read_text().splitlines(keepends=True)
    lines = [line.replace("\t", "\tx", 1) if n % 3 == 2 else line for n, line in enumerate(lines)]
    (folder / "u.data").write_text("".join(lines))
    text = printed(entry, tmp_path, monkeypatch, capfd)
    assert text.count("check quarantine_rate of raw_logs failed for 1997-09-20") == 1
    assert "expected at most 0.01" in text
    [line] = re.findall(r"\d+ x bad number in column item; the first is u\.data, line (\d+): ", text)
    assert lines[int(line) - 1].split("\t")[1].startswith("x")
    assert str(tmp_path / "home" / "raw_logs" / "ratings" / "1997-09-20" / "quarantine.parquet") in text
    assert "expectations.quarantine_rate in the catalog entry" in text
    assert "Traceback" not in text and "Stack Trace" not in text and text.count("quarantine_rate") == 2


def test_observed_and_expected_values_are_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    entry = write_log("ratings", tmp_path / "home" / "landing" / "ratings", 0)
    entry["expectations"] = {"label_rate": {"min": 0.9}}
    text = printed(entry, tmp_path, monkeypatch, capfd)
    assert text.count("check label_rate of raw_logs failed for 1997-09-20: observed day 0.") == 1
    assert "expected at least 0.9" in text and "expectations.label_rate in the catalog entry" in text
    assert "Traceback" not in text and "Stack Trace" not in text


def test_checks_that_only_warn_are_printed_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    entry = write_log("ratings", tmp_path / "home" / "landing" / "ratings", 0)
    spec = DatasetSpec.model_validate(entry)

    @dg.asset(partitions_def=daily(spec), check_specs=[dg.AssetCheckSpec(name, asset="logs") for name in ("volume", "drift")])
    def logs():
        few = {"explanation": "check volume of raw_logs failed: observed 0.1\n  more in the UI"}
        yield dg.MaterializeResult(
            check_results=[
                dg.AssetCheckResult(check_name="volume", passed=False, severity=dg.AssetCheckSeverity.WARN, metadata=few),
                dg.AssetCheckResult(check_name="drift", passed=True),
            ]
        )

    job = dg.define_asset_job(job_name(spec), selection="*", partitions_def=daily(spec))
    monkeypatch.setattr(replay, "build_defs", lambda specs: dg.Definitions([logs], jobs=[job]))
    monkeypatch.setattr(replay, "recipe_changes", lambda *given: [])
    text = printed(entry, tmp_path, monkeypatch, capfd, exit_code=0)
    day = entry["partitions"]["start"]
    assert text.count("volume") == 1 and "drift" not in text
    assert f"{day}  warning: check volume of raw_logs failed: observed 0.1\n" in text
