"""`python -m orchestration.split`: splits days of a dataset from its raw files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from ml.catalog.load import load_dataset
from orchestration.split import main
from tests.helpers.small_logs import write_log


@pytest.fixture
def ratings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A catalog with one dataset, whose logs are in the folder `logs`. Returns the folder of both."""
    entry = write_log("ratings", tmp_path / "logs", 0)
    (tmp_path / "catalog").mkdir()
    (tmp_path / "catalog" / "ratings.yaml").write_text(yaml.safe_dump(entry, sort_keys=False))
    for name, value in {"HOME": "home", "CATALOG": "catalog", "DAGSTER": "home/dagster"}.items():
        monkeypatch.setenv(f"EVERGREEN_{name}", str(tmp_path / value))
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "home" / "dagster"))
    (tmp_path / "home" / "dagster").mkdir(parents=True)
    (tmp_path / "home" / "dagster" / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    monkeypatch.setenv("EVERGREEN_SPARK_MASTER", "none")
    return tmp_path


def test_split_writes_streams_that_the_catalog_can_use(ratings: Path) -> None:
    out = ratings / "out"
    given = ["ratings", "--logs", str(ratings / "logs"), "--days", "2", "--delays", "exponential:mean=20m", "--wait", "30m"]
    done = CliRunner().invoke(main, [*given, "--out", str(out)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    counts = json.loads((out / "split.json").read_text())
    assert f"{counts['rows']:,} joined rows" in done.output and counts["actions"]["in time"] > 0
    spec = load_dataset(out / "ratings_streams.yaml")
    assert spec.actions is not None and spec.actions.wait == 30 * 60 * 10**6
    assert all((out / side.source.files).is_file() for side in spec.join), "side tables are beside the streams"
    again = CliRunner().invoke(main, [*given, "--out", str(out)])
    assert again.exit_code == 1 and "not empty" in again.output


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--delays", "normal:mean=1s"], "expected lognormal"),
        (["--wait", "1 hour"], "expected a number with one of the units"),
        (["--first", "2001-01-01"], "has the days 1997-09-20 to 1997-10-09"),
        (["--days", "99"], "has 20 days from 1997-09-20 on, not 99"),
    ],
)
def test_wrong_options_are_refused(given: list[str], message: str, ratings: Path) -> None:
    done = CliRunner().invoke(main, ["ratings", "--logs", str(ratings / "logs"), "--out", str(ratings / "out"), *given])
    assert done.exit_code == 2 and message in " ".join(done.output.split()), done.output
