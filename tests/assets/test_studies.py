"""Studies as assets: they run on the days of a lake, store their results, and show them as metadata."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import dagster as dg
import pytest

from assets.resources import LakeResource
from assets.studies import compression, independent_embeddings, multimetric
from assets.studies.study_asset import first_days
from ml.lake import Lake
from ml.stages import STUDIES
from tests.helpers.training_days import made_spec, write_days

SPEC = made_spec().model_copy(update={"demo_days": 3})


def materialised(study: ModuleType, lake: Lake, config: dict[str, Any]) -> dict[str, Any]:
    write_days(lake, SPEC, 3, 320)
    asset, step = study.build(SPEC), f"{STUDIES}__{SPEC.name}_{study.NAME}"
    resources = {"lake": LakeResource(root=str(lake.root))}
    done = dg.materialize([asset], run_config={"ops": {step: {"config": config}}}, resources=resources)
    assert lake.manifest(STUDIES, study.NAME, SPEC.name)["days"] == SPEC.days()[:3]
    return dict(done.asset_materializations_for_node(step)[0].metadata)


def test_compression_shows_a_figure_and_a_table(lake: Lake) -> None:
    metadata = materialised(compression, lake, {"seeds": 1, "shares": [4], "many_ids": 100})
    table = str(metadata["variants"].value)
    assert "| hashed | 1/4 | 160 |" in table and "chinese_remainder, path" in table
    assert str(metadata["auc"].value).startswith("![figure](data:image/png;base64,")


@pytest.mark.slow
def test_multimetric_shows_all_experiments(lake: Lake) -> None:
    metadata = materialised(multimetric, lake, {"days": 3, "seeds": 1, "observations": 2})
    table = str(metadata["experiments"].value)
    assert "| one metric |" in table and "| two metrics, thresholds |" in table


@pytest.mark.slow
def test_independent_embeddings_shows_all_cases(lake: Lake) -> None:
    metadata = materialised(independent_embeddings, lake, {"seeds": 1, "processes": [2], "batch_size": 64})
    assert "| 2 processes, independent |" in str(metadata["cases"].value)


def test_too_few_days_fail_without_a_retry() -> None:
    with pytest.raises(dg.Failure, match="9 requested, made has 5"):
        first_days(SPEC, 9, least=3)
    assert first_days(SPEC, None, least=3) == tuple(SPEC.days()[:3])
