"""The asset graph of one dataset (daily assets, several of them for each model, and checks), and the graph of a catalog."""

from collections.abc import Iterable

import dagster as dg

from assets import (
    advisor_recipes,
    batch_recommendations,
    candidate_index,
    cleaned_features,
    evaluation_reports,
    exported_models,
    feature_profiles,
    feature_tables,
    joined_examples,
    mds_datasets,
    online_updates,
    raw_actions,
    raw_logs,
    studies,
    tuned_models,
    tuning_results,
)
from assets.checks import build_checks
from assets.experiment_checks import build_experiment_check
from assets.feature_store_checks import build_feature_store_check
from assets.freshness import build_freshness_check
from assets.joiner_checks import build_joiner_checks, build_stream_check
from assets.online_checks import build_online_check
from assets.partitions import daily
from assets.policy import key
from assets.promotion_checks import build_promotion_check
from assets.report_checks import build_report_checks
from assets.retune_checks import build_retune_checks
from assets.serving_checks import build_health_check, build_lag_check
from ml.catalog.spec import DatasetSpec
from ml.stages import VALIDATED


def dataset_graph(spec: DatasetSpec) -> dg.Definitions:
    """Build the assets and checks of one dataset, in a group with its name."""
    checks = [build_checks(spec, stage, key(spec, stage), daily(spec)) for stage in VALIDATED]
    return dg.Definitions(
        assets=[
            raw_logs.build(spec),
            *([raw_actions.build(spec), joined_examples.build(spec)] if spec.actions else []),
            *([feature_tables.build(spec)] if spec.feature_tables else []),
            cleaned_features.build(spec),
            mds_datasets.build(spec),
            feature_profiles.build(spec),
            *(tuning_results.build(spec, model) for model in spec.models),
            *(advisor_recipes.build(spec, model) for model in spec.models),
            *(tuned_models.build(spec, model) for model in spec.models),
            *(online_updates.build(spec, model) for model in spec.models),
            *(exported_models.build(spec, model) for model in spec.models),
            *([candidate_index.build(spec)] if spec.item else []),
            *([batch_recommendations.build(spec)] if spec.item and spec.user else []),
            evaluation_reports.build(spec),
        ],
        asset_checks=[
            *checks,
            build_freshness_check(spec),
            *([build_feature_store_check(spec)] if spec.feature_tables else []),
            build_report_checks(spec),
            build_promotion_check(spec),
            *([build_experiment_check(spec)] if spec.experiment else []),
            build_retune_checks(spec),
            *(build_online_check(spec, model) for model in spec.models),
            *(build_lag_check(spec, model) for model in spec.models),
            build_health_check(spec),
            *([candidate_index.build_recall_check(spec)] if spec.item else []),
            *([batch_recommendations.build_check(spec)] if spec.item and spec.user else []),
            *([build_joiner_checks(spec), build_stream_check(spec)] if spec.actions else []),
        ],
    )


def catalog_graph(specs: Iterable[DatasetSpec]) -> dg.Definitions:
    """Build the graphs of several datasets, and the studies on them."""
    by_name = {spec.name: spec for spec in specs}
    return dg.Definitions.merge(
        *(dataset_graph(spec) for spec in by_name.values()), dg.Definitions(assets=studies.build(by_name))
    )
