"""Experiments that cannot be served or measured are refused by key."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from tests.helpers.kiosk_lake import experiment_spec, spec_of

SHARES = {"dlrm": 0.5, "deepfm": 0.5}


def test_an_experiment_does_not_change_what_is_made_from_the_log() -> None:
    spec, without = experiment_spec(), experiment_spec(experiment=None)
    assert spec.experiment is not None and spec.experiment.champion == "dlrm"
    assert spec.fingerprint == without.fingerprint and spec.log.fingerprint == without.log.fingerprint


@pytest.mark.parametrize(
    ("experiment", "said"),
    [
        (
            {"name": "a", "shares": {"dlrm": 0.5, "wide": 0.5}},
            "'wide' is not a model of the entry; its models are dlrm, deepfm",
        ),
        ({"name": "a", "shares": {"dlrm": 0.5, "lambdarank": 0.5}}, "'lambdarank' is not a model of the entry"),
        ({"name": "a", "shares": {"dlrm": 0.5, "deepfm": 0.4}}, "add up to 0.9, expected 1"),
        ({"name": "a", "shares": {"dlrm": 0.9}}, "at least 2 items"),
        ({"name": "a", "shares": {"dlrm": 1.0, "deepfm": 0.0}}, "less than 1"),
        ({"name": "A b", "shares": SHARES}, "match pattern"),
        ({"shares": SHARES}, "name"),
    ],
)
def test_wrong_shares_and_names_are_refused(experiment: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        experiment_spec(experiment=experiment)


def test_users_items_and_impressions_are_needed() -> None:
    with pytest.raises(ValidationError, match="a log of positives alone has none"):
        spec_of(experiment={"name": "a", "shares": {"dlrm": 0.5, "two_tower": 0.5}})
    with pytest.raises(ValidationError, match="needs user and item"):
        experiment_spec(user=None, session=None, ranking=None)
