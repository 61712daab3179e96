from __future__ import annotations

import pytest

from ml.advisor.advise import advise
from ml.advisor.expression import FUNCTIONS
from ml.advisor.profiles.profile import Cross, FeatureProfile
from ml.advisor.quantities import SCOPES, ids_of
from ml.advisor.rules import Rules
from ml.advisor.wishes import Wishes
from ml.catalog.load import load_catalog
from tests.helpers.feature_profiles import profile_of
from tests.helpers.paths import ROOT
from tests.ml.advisor.test_advise import CALIBRATION, MACHINE

SPEC = load_catalog()["globo"]
WISHES = Wishes(seconds=1e9, memory=1e15, target=("auc", 0.9))


def known(scope: str, name: str, profile: FeatureProfile | None) -> set[str]:
    """The values of a quantity, as text, for the two-tower model of Globo."""
    rule = {
        "name": "probe",
        "for": scope,
        "when": f"{name} == {name}",
        "suggest": f"{{{name}}}",
        "reason": "Because the test asks for it.",
        "source": "a test",
    }
    rules = Rules.model_validate({"rules": [rule]})
    return {
        s.text for s in advise(SPEC, "two_tower", profile, MACHINE, WISHES, rules=rules, calibration=CALIBRATION).suggestions
    }


@pytest.mark.parametrize(("scope", "name"), [(scope, name) for scope, names in SCOPES.items() for name in names])
def test_every_quantity_is_known_with_a_profile_and_documented(scope: str, name: str) -> None:
    profile = FeatureProfile(**vars(profile_of(SPEC)) | {"crosses": (Cross(("user", "country"), 0.01, 100),)})
    assert known(scope, name, profile)
    assert f"| `{name}` | {SCOPES[scope][name]} |" in (ROOT / "docs" / "advisor.md").read_text()


def test_values_of_quantities() -> None:
    profile = profile_of(SPEC, 1000, ids=100)
    for scope, name, values in (
        ("recipe", "rows", {"1000.0"}),
        ("recipe", "days", {"4"}),
        ("recipe", "cores", {"4.0"}),
        ("recipe", "sampled_negatives", {"True"}),
        ("recipe", "lookups", {"12.0"}),
        ("recipe", "occurrences_per_id", {"40.0"}),
        ("table", "is_item", {"True", "False"}),
        ("table", "numbers", {"15", "26"}),
        ("dense_feature", "bucketed", {"True"}),
    ):
        assert known(scope, name, profile) == values, name
    assert known("recipe", "rows", None) == set()


def test_ids_of_buckets_and_hours_are_numbers() -> None:
    numbers = {column.name: ids_of(column) for column in SPEC.sparse}
    assert (numbers["hour"], numbers["clicks_1h_bucket"], numbers["item"]) == (26, 15, None)


def test_functions_are_documented() -> None:
    text = (ROOT / "docs" / "advisor.md").read_text()
    assert all(f"`{name}`" in text for name in FUNCTIONS)
