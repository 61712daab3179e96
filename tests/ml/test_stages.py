from __future__ import annotations

from ml.catalog.spec import DatasetSpec
from ml.stages import VALIDATED, exported_models, online_updates, served_models, stages_of, stages_on_request, tuned_models


def test_each_model_has_its_own_stages(catalog: dict[str, DatasetSpec]) -> None:
    for spec in catalog.values():
        stages = stages_of(spec)
        assert len(stages) == len(set(stages)) == len(VALIDATED) + 3 * len(spec.models) + 2 + bool(spec.item)
        assert all(stages.index(tuned_models(m)) < stages.index(exported_models(m)) for m in spec.models)


def test_online_training_is_daily_if_it_is_served(catalog: dict[str, DatasetSpec]) -> None:
    daily = catalog["criteo"]
    choice = daily.models["dlrm"].model_copy(update={"serve": "online"})
    online = daily.model_copy(update={"models": daily.models | {"dlrm": choice}})
    stage = online_updates("dlrm")
    assert stage in stages_on_request(daily) and stage not in stages_of(daily)
    assert stage in stages_of(online) and stage not in stages_on_request(online)
    assert stages_of(online).index(tuned_models("dlrm")) < stages_of(online).index(stage)
    assert stages_of(online).index(stage) < stages_of(online).index(exported_models("dlrm"))
    assert (served_models(daily, "dlrm"), served_models(online, "dlrm")) == (tuned_models("dlrm"), stage)
    assert online_updates("deepfm") in stages_on_request(online)
