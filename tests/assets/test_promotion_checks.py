"""The check of champion and challenger in real runs: its metadata, and the registry's aliases after it."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from assets.policy import daily_asset
from assets.promotion_checks import build_promotion_check
from assets.resources import LakeResource, MlflowResource
from ml.catalog.spec import DatasetSpec
from ml.lake import Lake

DAYS = [f"2014-01-{day:02d}" for day in range(1, 6)]
Check = Callable[..., dg.AssetCheckEvaluation]


def write_report(lake: Lake, day: str, before: str, **aucs: float) -> None:
    models = {name: {"auc": auc, "log_loss": 0.5, "facts": {"snapshot_day": before}} for name, auc in aucs.items()}
    gain = {"value": aucs["deepfm"] - aucs["dlrm"], "error": 0.001, "df": 900} if aucs else None
    compared = [{"one": "deepfm", "other": "dlrm", "auc": gain, "log_loss": None}] if aucs else []
    with lake.write("evaluation_reports", "criteo", day) as staging:
        (staging / "history_entry.json").write_text(json.dumps({"day": day, "models": models, "comparisons": compared}))
        lake.write_manifest(staging, {})


def write_reports(lake: Lake) -> None:
    """Write a first day without models, and later days on which DeepFM is better."""
    write_report(lake, DAYS[0], "")
    for before, day in pairwise(DAYS):
        write_report(lake, day, before, dlrm=0.74, deepfm=0.75)


@pytest.fixture
def check(catalog: dict[str, DatasetSpec], lake: Lake, mlflow_home: Path) -> Check:
    """A function that runs the check after the report of one day or of several days, or by itself."""
    spec = catalog["criteo"]

    @daily_asset(spec, "evaluation_reports", kinds={"html"}, description="Made for tests.")
    def report() -> None:
        """The report is already in the lake."""

    defs = dg.Definitions(
        [report],
        asset_checks=[build_promotion_check(spec)],
        jobs=[dg.define_asset_job("day"), dg.define_asset_job("alone", dg.AssetSelection.all_asset_checks())],
        resources={"lake": LakeResource(root=str(lake.root)), "mlflow": MlflowResource(home=str(mlflow_home))},
    )

    def run(day: str | None = None, last: str | None = None) -> dg.AssetCheckEvaluation:
        job = defs.resolve_job_def("day" if day else "alone")
        ends = {"dagster/asset_partition_range_start": day, "dagster/asset_partition_range_end": last} if day and last else {}
        with dg.DagsterInstance.ephemeral() as instance:
            done = job.execute_in_process(instance=instance, partition_key=None if ends else day, tags=ends)
            [found] = done.get_asset_check_evaluations()
        return found

    return run


def metadata_of(found: dg.AssetCheckEvaluation) -> dict[str, Any]:
    return {name: value.value for name, value in found.metadata.items()}


def test_metadata_name_the_champion_even_without_registered_models(lake: Lake, check: Check) -> None:
    write_reports(lake)
    first, second, third, newest = (check(day) for day in (DAYS[0], DAYS[1], DAYS[3], None))
    assert first.passed and "no models were compared" in metadata_of(first)["champion"]
    assert (
        metadata_of(second).items()
        >= {"champion": "dlrm", "challenger": "deepfm", "auc_deepfm": 0.75, "changed": False}.items()
    )
    assert not second.passed and second.severity == dg.AssetCheckSeverity.WARN, "far behind, but still champion"
    assert third.passed, "a change of champion is no warning"
    assert (
        metadata_of(third).items() >= {"champion": "deepfm", "challenger": "dlrm", "replaced": "dlrm", "changed": True}.items()
    )
    assert metadata_of(newest).items() >= {"champion": "deepfm", "changed": False, "day": DAYS[4]}.items()
    several = check(DAYS[1], DAYS[4])
    assert not several.passed and metadata_of(several)["failing_days"] == DAYS[1:3] and metadata_of(several)["changed"]
    assert "no version of deepfm trained until 2014-01-04" in metadata_of(newest)["champion_alias"]


def test_the_verdict_does_not_need_the_registry(lake: Lake, check: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    write_reports(lake)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    found = check(DAYS[3])
    assert found.passed and metadata_of(found)["champion"] == "deepfm"
    assert metadata_of(found)["aliases"].startswith("not moved: ")


def test_aliases_follow_the_newest_report_whichever_day_is_checked(lake: Lake, check: Check, mlflow_home: Path) -> None:
    from ml.tracking.registry import register
    from ml.tracking.run import Tracker

    client, days_of = Tracker(mlflow_home).client(), {}
    for number, (model, day) in enumerate([(model, day) for day in DAYS for model in ("dlrm", "deepfm")], 1):
        made = client.create_logged_model("0", model, client.create_run("0").info.run_id)
        register(client, "criteo", made, model, day, "digest")
        days_of[number] = (model, day)

    def pointed() -> dict[str, tuple[str, str]]:
        return {alias: days_of[int(version)] for alias, version in client.get_registered_model("criteo").aliases.items()}

    write_report(lake, DAYS[1], DAYS[0], dlrm=0.74, deepfm=0.75)
    check(DAYS[1])
    assert pointed() == {"champion": ("dlrm", DAYS[0]), "challenger": ("deepfm", DAYS[0])}
    write_reports(lake)
    check(DAYS[4])
    assert pointed() == {"champion": ("deepfm", DAYS[3]), "challenger": ("dlrm", DAYS[3])}
    assert "version 8: deepfm trained until 2014-01-04" in metadata_of(check(DAYS[1]))["champion_alias"]
    assert pointed() == {"champion": ("deepfm", DAYS[3]), "challenger": ("dlrm", DAYS[3])}, (
        "aliases do not move back to an older day"
    )
