"""Demo, replay, the sensor and a run stop at an entry that does not fit its files, before anything is trained."""

import gzip
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from click.testing import CliRunner

from assets.preflight import findings_of
from assets.resources import LakeResource, LandingResource, MlflowResource, SparkResource
from ml.catalog.load import Catalog
from ml.catalog.spec import DatasetSpec
from ml.lake import Lake
from ml.recipes.recipe import RECIPES
from orchestration import demo, replay
from orchestration.definitions import build_defs
from orchestration.jobs import job_name
from tests.helpers.small_logs import write_log


@pytest.fixture
def entry(tmp_path: Path) -> dict[str, Any]:
    return write_log("ratings", tmp_path / "home" / "landing" / "ratings", 0)


def resources(home: Path) -> dict[str, object]:
    return {
        "lake": LakeResource(root=str(home)),
        "landing": LandingResource(root=str(home / "landing")),
        "spark": SparkResource(master="none"),
        "mlflow": MlflowResource(home=str(home)),
    }


def wrong(entry: dict[str, Any]) -> DatasetSpec:
    return DatasetSpec.model_validate(entry | {"time": {"column": "timestamp", "unit": "ms"}})


def warned(entry: dict[str, Any]) -> DatasetSpec:
    features = [feature for feature in entry["sparse"] if isinstance(feature, str)]
    return DatasetSpec.model_validate(entry | {"sparse": [*features, {"name": "genres", "split": "|"}]})


@pytest.mark.parametrize("command", [demo.main, replay.main], ids=["demo", "replay"])
def test_commands_stop_with_what_to_change(
    command: Any, entry: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVERGREEN_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    monkeypatch.setattr(replay, "catalog", lambda: Catalog({"ratings": wrong(entry)}, {}))
    done = CliRunner().invoke(command, ["ratings"])
    assert done.exit_code == 1, done.output
    assert "error: time.unit: the sampled times run from 1970-01-11" in done.output and "set `unit: s`" in done.output
    assert not Lake.at(tmp_path / "home").days("raw_logs", "ratings")


def test_a_run_stops_before_it_reads_the_log(entry: dict[str, Any], tmp_path: Path) -> None:
    spec, home = wrong(entry), tmp_path / "home"
    job = build_defs([spec], resources(home)).resolve_job_def(job_name(spec))
    with dg.DagsterInstance.ephemeral() as instance:
        result = job.execute_in_process(partition_key=spec.days()[0], instance=instance, raise_on_error=False)
    failure = next(event for event in result.all_events if event.is_step_failure)
    assert "raw_logs" in str(failure.step_key) and "set `unit: s`" in str(failure.step_failure_data)
    assert not Lake.at(home).days("raw_logs", spec.name)


def test_warnings_are_a_failed_check_in_the_ui(entry: dict[str, Any], tmp_path: Path) -> None:
    spec, home = warned(entry), tmp_path / "home"
    definitions = build_defs([spec], resources(home))
    assets = [a for a in definitions.resolve_all_asset_specs() if a.key.path[-1] == "raw_logs"]
    job = definitions.resolve_job_def(job_name(spec))
    with dg.DagsterInstance.ephemeral() as instance:
        result = job.execute_in_process(
            partition_key=spec.days()[0], instance=instance, asset_selection=[assets[0].key], raise_on_error=False
        )
    [found] = [e for e in result.get_asset_check_evaluations() if e.check_name == "preflight"]
    assert result.success and not found.passed and found.severity == dg.AssetCheckSeverity.WARN
    assert "sparse.genres.split" in str(found.metadata["findings"])


def test_the_sensor_skips_with_what_to_change(entry: dict[str, Any], tmp_path: Path) -> None:
    with dg.DagsterInstance.ephemeral() as instance:

        def tick(spec: DatasetSpec):
            definitions = build_defs([spec], resources(tmp_path / "home"))
            context = dg.build_sensor_context(
                instance=instance, definitions=definitions, resources=resources(tmp_path / "home")
            )
            return definitions.resolve_sensor_def(f"{spec.name}_landing").evaluate_tick(context)

        skipped = tick(wrong(entry))
        assert not skipped.run_requests and "set `unit: s`" in skipped.skip_message
        assert [r.partition_key for r in tick(DatasetSpec.model_validate(entry)).run_requests] == ["1997-09-20"]


def test_findings_are_computed_again_when_a_file_changes(entry: dict[str, Any], tmp_path: Path) -> None:
    spec, folder = DatasetSpec.model_validate(entry), tmp_path / "home" / "landing" / "ratings"
    assert findings_of(spec, str(folder)) == []
    (folder / "ml.item").unlink()
    assert [finding.key for finding in findings_of(spec, str(folder))] == ["join.0.source.files"]


def test_a_wrong_key_of_a_recipe_is_found_although_no_file_of_the_log_has_changed(
    entry: dict[str, Any], tmp_path: Path
) -> None:
    spec, folder = DatasetSpec.model_validate(entry), tmp_path / "home" / "landing" / "ratings"
    edits = tmp_path / "edits.yaml"
    models = {name: choice.found_in(RECIPES, edits) for name, choice in spec.models.items()}
    spec = spec.model_copy(update={"models": models})
    assert findings_of(spec, str(folder)) == []
    edits.write_text("sigopt: {budget: 3}")
    found = findings_of(spec, str(folder))
    assert found and all(f"{edits}: sigopt.budget: unknown key" in finding.found for finding in found)


def test_a_damaged_file_of_a_later_day_warns_and_its_day_stops(entry: dict[str, Any], tmp_path: Path) -> None:
    folder = tmp_path / "home" / "landing" / "ratings"
    lines = (folder / "u.data").read_text().splitlines(keepends=True)
    at = entry["partitions"]["start"]
    for day in range(2):
        begin = int(datetime.fromisoformat(f"{at}T00:00:00+00:00").timestamp()) + 86_400 * day
        of_day = [line for line in lines if begin <= int(line.split("\t")[3]) < begin + 86_400]
        packed = gzip.compress("".join(of_day).encode())
        (folder / f"u.{date.fromisoformat(at) + timedelta(days=day)}.gz").write_bytes(packed[:-20] if day else packed)
    spec = DatasetSpec.model_validate(entry | {"source": entry["source"] | {"files": "u.%Y-%m-%d.gz"}})
    first, second = spec.days()[:2]
    replay.check_entry(spec, str(folder), [first])
    with pytest.raises(replay.DayFailed, match=f"u.{second}.gz: damaged file"):
        replay.check_entry(spec, str(folder), [first, second])
