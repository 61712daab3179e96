import math
from typing import cast

import pytest
from torch import nn

from ml.lake import Lake
from ml.models.dlrm import DLRM
from ml.recipes.recipe import load_recipe
from ml.training.first_state import first_state
from tests.helpers.training_days import made_spec


@pytest.mark.parametrize(("correction", "odds"), [("none", 0.2 / 0.8), ("loss", 0.2 * 0.5 / 0.8), ("weights", 0.2 * 0.5 / 0.8)])
def test_the_first_state_predicts_the_rate_of_the_log_before_sampling(correction: str, odds: float, lake: Lake) -> None:
    spec, day = made_spec(), "2026-01-01"
    with lake.write("cleaned_features", spec.name, day) as folder:
        lake.write_manifest(folder, {"label_rate": 0.2, "mean_sample_rate": 0.5, "fingerprint": spec.fingerprint})
    recipe = load_recipe("dlrm", {"sampling_correction": correction})
    model = first_state(lake, spec, day, recipe).model
    assert isinstance(model, DLRM)
    assert model.output.bias[0].item() == pytest.approx(math.log(odds))


@pytest.mark.parametrize("kind", ["dlrm", "deepfm", "dcn_v2", "wide_deep"])
def test_each_head_starts_at_the_rate_of_its_label(kind: str, lake: Lake) -> None:
    spec, day = made_spec(labels={name: {"column": "clicked"} for name in ("saved", "shared")}), "2026-01-01"
    with lake.write("cleaned_features", spec.name, day) as folder:
        facts = {"label_rate": 0.2, "further_rates": {"saved": 0.03, "shared": 0.0}, "mean_sample_rate": 1.0}
        lake.write_manifest(folder, facts | {"fingerprint": spec.fingerprint})
    models = (first_state(lake, spec, on, load_recipe(kind)).model for on in (day, "2026-01-02"))
    bias, built = (cast(nn.Linear, model.output).bias for model in models)
    assert bias[:2].tolist() == pytest.approx([math.log(rate / (1 - rate)) for rate in (0.2, 0.03)])
    assert bias[2] == built[2]  # a label without positives has no finite log odds


def test_without_the_days_features_the_model_keeps_its_own_bias(lake: Lake) -> None:
    spec, recipe = made_spec(), load_recipe("dlrm")
    one, other = (first_state(lake, spec, day, recipe).model for day in ("2026-01-01", "2026-01-02"))
    assert isinstance(one, DLRM) and isinstance(other, DLRM)
    assert one.output.bias[0] == other.output.bias[0]
