"""Checks warn if a model is worse than a baseline or not calibrated, but not on a first day."""

import json

import dagster as dg
import pytest

from assets.report_checks import build_report_checks, judge
from assets.resources import LakeResource
from ml.catalog.spec import DatasetSpec
from ml.lake import Lake


def figures(auc: float | None, beats: dict[str, bool | None], calibration: float | None) -> dict:
    return {
        "model": {"auc": auc, "calibration": calibration},
        "baselines": {"constant_prior": {"auc": 0.5}, "logistic_regression": {"auc": 0.7}},
        "beats": beats,
    }


@pytest.mark.parametrize(
    ("found", "passed"),
    [
        (figures(0.75, {"constant_prior": True, "logistic_regression": True}, 1.0), (True, True)),
        (figures(0.65, {"constant_prior": True, "logistic_regression": False}, 1.0), (False, True)),
        (figures(0.75, {"constant_prior": True, "logistic_regression": True}, 1.7), (True, False)),
        (figures(0.75, {"constant_prior": True, "logistic_regression": True}, None), (True, True)),
        (figures(None, {"constant_prior": None, "logistic_regression": None}, None), (True, True)),
    ],
)
def test_judgement(found: dict, passed: tuple[bool, bool]):
    verdict = judge(found)
    assert (verdict["beats_baselines"][0], verdict["calibrated"][0]) == passed


@pytest.mark.parametrize(("interval", "passed"), [([1.2, 2.0], True), ([1.3, 2.0], False), (None, False)])
def test_a_calibration_that_few_rows_explain_is_no_reason_to_warn(interval: list[float] | None, passed: bool):
    found = figures(0.75, {"constant_prior": True}, 1.7)
    found["model"]["intervals"] = {"calibration": interval}
    assert judge(found)["calibrated"][0] == passed


@pytest.mark.parametrize(
    ("difference", "error", "passed"),
    [
        (0.02, 0.01, True),
        (-0.01, 0.01, True),
        (-0.02, 0.01, False),
        (-0.02, None, True),
        (-0.02, 0.0, True),
        (None, None, True),
    ],
)
def test_a_log_of_positives_only_is_judged_by_its_ranking_too(difference: float | None, error: float | None, passed: bool):
    against = {"co_visitation": {"recall@20": 0.7, "difference": difference, "standard_error": error, "df": 200}}
    ranking = {"models": {"two_tower": {"recall@20": 0.6, "against": against}}}
    found = figures(0.97, {"constant_prior": True, "logistic_regression": True}, 1.0) | {"ranking": ranking}
    verdict = judge(found | {"sampling": {"draw": "uniform"}})["beats_baselines"]
    assert verdict[0] == passed
    assert verdict[1]["recall_at_20/two_tower"] == 0.6 and verdict[1]["recall_at_20/co_visitation"] == 0.7
    assert judge(found | {"sampling": None})["beats_baselines"][0], "other logs are judged by their labels"


@pytest.mark.parametrize("chosen", [["calibrated"], ["beats_baselines", "calibrated"]])
def test_checks_can_be_run_by_themselves_and_look_at_the_newest_day(
    chosen: list[str], catalog: dict[str, DatasetSpec], lake: Lake
):
    spec = catalog["criteo"]
    for day, calibration in (("2014-01-02", 1.0), ("2014-01-03", 3.0)):
        with lake.write("evaluation_reports", spec.name, day) as staging:
            (staging / "metrics.json").write_text(json.dumps(figures(0.75, {"constant_prior": True}, calibration)))
            lake.write_manifest(staging, {})
    checks = build_report_checks(spec)
    report = dg.AssetSpec(dg.AssetKey([spec.name, "evaluation_reports"]))
    keys = [dg.AssetCheckKey(report.key, name) for name in chosen]
    defs = dg.Definitions([report], asset_checks=[checks], resources={"lake": LakeResource(root=str(lake.root))})
    job = dg.define_asset_job("checks_alone", dg.AssetSelection.checks(*keys))
    with dg.DagsterInstance.ephemeral() as instance:
        done = dg.Definitions.merge(defs, dg.Definitions(jobs=[job])).resolve_job_def("checks_alone")
        found = done.execute_in_process(instance=instance).get_asset_check_evaluations()
    assert {e.check_name: e.passed for e in found} == {name: name != "calibrated" for name in chosen}
