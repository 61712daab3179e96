import math

import pytest
import torch
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from ml.models.build import build_model
from ml.models.output import start_at_rate
from ml.recipes.recipe import load_recipe
from ml.schema import FeatureSchema

SCHEMA = FeatureSchema(dense=("age",), single=("user", "item"), multi=(), fingerprint="f")


@pytest.mark.parametrize("model", ["dlrm", "dcn_v2", "deepfm", "wide_deep"])
@pytest.mark.parametrize("rate", [0.002, 0.7])
def test_an_untrained_model_predicts_the_rate_on_average(model: str, rate: float) -> None:
    built = build_model(load_recipe(model), SCHEMA).eval()
    start_at_rate(built, rate)
    generator, rows = torch.Generator().manual_seed(1), 4096
    ids = torch.randint(2**62, (2 * rows,), generator=generator)
    with torch.no_grad():
        sparse = KeyedJaggedTensor(["user", "item"], ids, lengths=torch.ones(2 * rows, dtype=torch.int64))
        logits = built(torch.rand(rows, 1, generator=generator), sparse)
    assert logits.mean().item() == pytest.approx(math.log(rate / (1 - rate)), abs=0.5)


@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_a_day_of_one_label_leaves_the_model_as_it_is(rate: float) -> None:
    one, other = (build_model(load_recipe("dlrm"), SCHEMA) for _ in range(2))
    start_at_rate(one, rate)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_a_two_tower_model_has_no_output_bias() -> None:
    recipe = load_recipe("two_tower")
    recipe = recipe.model_copy(update={"model": recipe.model.model_copy(update={"user": ("user", "age"), "item": ("item",)})})
    one, other = (build_model(recipe, SCHEMA) for _ in range(2))
    start_at_rate(one, 0.01)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
