from __future__ import annotations

from ml.catalog.spec import DatasetSpec
from ml.stages import VALIDATED, exported_models, stages_of, tuned_models


def test_each_model_has_its_own_stages(catalog: dict[str, DatasetSpec]) -> None:
    for spec in catalog.values():
        stages = stages_of(spec)
        assert len(stages) == len(set(stages)) == len(VALIDATED) + 3 * len(spec.models) + 2
        assert all(stages.index(tuned_models(m)) < stages.index(exported_models(m)) for m in spec.models)
