"""The graph of one dataset: its five daily assets and their checks. A catalog of datasets is as many such graphs."""

from collections.abc import Iterable

import dagster as dg

from assets import cleaned_features, evaluation_reports, mds_datasets, raw_logs, studies, tuned_models
from assets.checks import build_checks
from assets.freshness import build_freshness_check
from assets.partitions import daily
from assets.policy import key
from assets.report_checks import build_report_checks
from ml.catalog.spec import DatasetSpec

STAGES = (raw_logs, cleaned_features, mds_datasets, tuned_models, evaluation_reports)
CHECKED = (raw_logs.STAGE, cleaned_features.STAGE, mds_datasets.STAGE)


def dataset_graph(spec: DatasetSpec) -> dg.Definitions:
    """Assets and checks of one dataset, under its name."""
    checks = [build_checks(spec, stage, key(spec, stage), daily(spec)) for stage in CHECKED]
    return dg.Definitions(
        assets=[stage.build(spec) for stage in STAGES],
        asset_checks=[*checks, build_freshness_check(spec), build_report_checks(spec)],
    )


def catalog_graph(specs: Iterable[DatasetSpec]) -> dg.Definitions:
    by_name = {spec.name: spec for spec in specs}
    return dg.Definitions.merge(
        *(dataset_graph(spec) for spec in by_name.values()), dg.Definitions(assets=studies.build(by_name))
    )
