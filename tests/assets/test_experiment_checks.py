"""The check of an experiment: only datasets with one have it, and it warns of a challenger that is significantly worse."""

from __future__ import annotations

from pathlib import Path

import dagster as dg
import pytest
from upath import UPath

from assets.experiment_checks import NAME, experiment_verdict
from assets.graph import dataset_graph
from ml.lake import Lake
from tests.helpers.kiosk_lake import DAY, experiment_spec
from tests.ml.evaluation.test_experiment import journalled


@pytest.mark.parametrize(("rate", "passed"), [(0.05, False), (0.2, True)])
def test_a_worse_challenger_is_a_warning(tmp_path: Path, rate: float, passed: bool) -> None:
    journalled(tmp_path, {"dlrm": 0.2, "deepfm": rate})
    found = experiment_verdict(experiment_spec(), DAY, Lake.at(tmp_path), UPath(tmp_path))
    assert found["passed"] == passed and ("explanation" in found["metadata"]) != passed
    records = [record.data for record in found["metadata"]["variants"].records]
    assert [record["variant"] for record in records] == ["dlrm", "deepfm"]
    assert records[0]["against_champion"] == "" and " to " in str(records[1]["against_champion"])


def test_only_datasets_with_an_experiment_have_the_check() -> None:
    for spec, wanted in ((experiment_spec(), True), (experiment_spec(experiment=None), False)):
        checks = dataset_graph(spec).asset_checks or ()
        names = {key.name for of in checks if isinstance(of, dg.AssetChecksDefinition) for key in of.check_keys}
        assert (NAME in names) == wanted
