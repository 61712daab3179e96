"""The asset of batch recommendations: which datasets have it, and a run with its check."""

from __future__ import annotations

from pathlib import Path

import dagster as dg
import pytest
from pydantic import ValidationError

from assets.batch_recommendations import BatchConfig, build, build_check
from assets.graph import dataset_graph
from assets.policy import key
from assets.resources import LakeResource, LandingResource, SparkResource
from ml.catalog.spec import DatasetSpec
from ml.lake import Lake
from ml.parquet import read_parquet, write_table
from ml.retrieval.day import index_day
from ml.serving.forms import MOST_ITEMS
from ml.stages import BATCH_RECOMMENDATIONS, stages_of, stages_on_request
from tests.helpers.kiosk_lake import DAY, kiosk_lake, spec_of

SPEC = spec_of()


def _run(root: Path, selection: dg.AssetSelection, config: dict | None = None) -> dg.ExecuteInProcessResult:
    held = {
        "lake": LakeResource(root=str(root / "lake")),
        "landing": LandingResource(root=str(root)),
        "spark": SparkResource(master="none"),
    }
    job = dg.define_asset_job("batch", selection)
    made = dg.Definitions(assets=[build(SPEC)], asset_checks=[build_check(SPEC)], jobs=[job], resources=held)
    return made.resolve_job_def("batch").execute_in_process(
        partition_key=DAY if config else None,  # a run of a check alone has no partition
        run_config={"ops": config} if config else None,
        instance=dg.DagsterInstance.ephemeral(),
    )


def test_datasets_with_an_item_have_it_on_request(catalog: dict[str, DatasetSpec]) -> None:
    for spec in catalog.values():
        made = {one for of in dataset_graph(spec).assets or () if isinstance(of, dg.AssetsDefinition) for one in of.keys}
        assert (key(spec, BATCH_RECOMMENDATIONS) in made) == bool(spec.item), spec.name
        assert (BATCH_RECOMMENDATIONS in stages_on_request(spec)) == bool(spec.item)
        assert BATCH_RECOMMENDATIONS not in stages_of(spec)
    assert catalog["criteo"].item is None


def test_more_items_than_the_service_answers_are_refused() -> None:
    assert BatchConfig(k=MOST_ITEMS).k == MOST_ITEMS
    with pytest.raises(ValidationError, match=r"k\n.* less than or equal to 500"):
        BatchConfig(k=MOST_ITEMS + 1)


def test_a_run_reports_the_day_and_its_check_finds_a_repeated_item(tmp_path: Path) -> None:
    lake = kiosk_lake(tmp_path / "lake")
    index_day(SPEC, DAY, lake)
    config = {"kiosk__batch_recommendations": {"config": {"k": 5}}}
    run = _run(tmp_path, dg.AssetSelection.all(), config)
    metadata = run.asset_materializations_for_node(f"{SPEC.name}__{BATCH_RECOMMENDATIONS}")[0].metadata
    assert metadata["users"].value == 29 and metadata["dagster/row_count"].value == 29 * 5
    assert float(str(metadata["candidates"].value)) >= 5 and metadata["models"].value == {"dlrm": 29}
    [passed] = run.get_asset_check_evaluations()
    assert passed.passed and passed.metadata["least"].value == 5

    part = Lake.at(tmp_path / "lake").partition(BATCH_RECOMMENDATIONS, SPEC.name, DAY) / "rows" / "part-00000.parquet"
    rows = read_parquet(part)
    write_table(rows.set_column(2, "item", rows["item"].take([0, *range(len(rows) - 1)])), part)
    check = dg.AssetSelection.checks(build_check(SPEC))
    [failed] = _run(tmp_path, check).get_asset_check_evaluations()
    assert not failed.passed and failed.severity == dg.AssetCheckSeverity.ERROR
    assert "repeat an item of their user" in str(failed.metadata["explanation"].value)
