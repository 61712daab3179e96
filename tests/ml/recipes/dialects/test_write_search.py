"""A search that is written in either dialect is read again without loss, and the tools accept the files."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from sigopt.validate.aiexperiment_input import validate_aiexperiment_input

from ml.recipes.dialects.choices import Choices
from ml.recipes.dialects.read import read_search
from ml.recipes.dialects.write import as_yaml, to_sda, to_sigopt
from ml.recipes.recipe import load_recipe
from ml.recipes.search import Search
from ml.tuning.parse.experiments import experiment
from tests.helpers.search_files import SDA_DLRM, SIGOPT

DLRM = load_recipe("dlrm")
SKIPPED = Choices(skip=frozenset({"learning_rate", "lamb_lr", "lr_num_decay_steps"}), steps=16003)


@pytest.fixture(params=["sda", "sigopt"])
def search(request: pytest.FixtureRequest, tmp_path: Path) -> Search:
    path = tmp_path / "original.yaml"
    path.write_text(SDA_DLRM if request.param == "sda" else SIGOPT + "project: ads\nmetadata: {evergreen.window_days: 4}\n")
    return read_search(path, DLRM, SKIPPED if request.param == "sda" else None).search


@pytest.mark.parametrize("dialect", ["sda", "sigopt"])
def test_a_search_is_read_again_without_loss(search: Search, dialect: str, tmp_path: Path) -> None:
    data = to_sda(search, "-", "-") if dialect == "sda" else to_sigopt(search, "-")
    path = tmp_path / "written.yaml"
    path.write_text(as_yaml(data))
    assert read_search(path, DLRM).search == search


def test_the_dialects_have_their_own_keys(search: Search) -> None:
    sda, sigopt = to_sda(search, "experiment", "project"), to_sigopt(search, "experiment")
    assert {"project", "experiment", "observation_budget"} <= sda.keys() and not {"name", "budget"} & sda.keys()
    assert {"name", "budget"} <= sigopt.keys() and not {"project", "experiment", "observation_budget"} & sigopt.keys()
    assert sda["parameters"] == sigopt["parameters"] and not any("key" in one for one in sda["parameters"])


def test_sigopts_client_and_service_accept_an_experiment(search: Search) -> None:
    data = yaml.safe_load(as_yaml(to_sigopt(search, "experiment")))
    found = experiment(validate_aiexperiment_input(data), in_project=True)
    assert len(found.space.parameters) == len(search.parameters)
    assert found.budget == search.observation_budget


def test_names_are_those_of_the_search_or_given() -> None:
    search = Search.model_validate({"parameters": [{"name": "seed", "key": "seed", "type": "int", "grid": [0, 1]}]})
    assert to_sigopt(search, "dlrm")["name"] == "dlrm"
    assert to_sda(search, "dlrm", "synthetic")["project"] == "synthetic"
    named = search.model_copy(update={"experiment": "ours", "project": "ads"})
    assert to_sigopt(named, "dlrm")["name"] == "ours"
    assert to_sda(named, "dlrm", "synthetic")["project"] == "ads"
