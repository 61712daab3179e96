"""The section `sigopt` of a user's edits is written without touching the rest of the file."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from ml.catalog.document import CatalogError
from ml.recipes.dialects.read import read_search
from ml.recipes.dialects.section import section_of, write_section
from ml.recipes.edits import edited_parameters, read_edits
from ml.recipes.recipe import load_recipe
from ml.recipes.search import Search
from tests.helpers.search_files import SIGOPT

SECTION = {"observation_budget": 7, "metrics": [{"name": "auc"}]}
TEXT = """\
# Our edits.
model: {embedding_dim: 32}  # twice the default

sigopt:
  # from last year
  observation_budget: 30

# The rates.
training:
  dense_optimizer: {lr: 0.002}
"""


def test_a_file_is_created(tmp_path: Path) -> None:
    path = tmp_path / "synthetic" / "dlrm.yaml"
    write_section(path, SECTION)
    edits = read_edits(path)
    assert edits and edits.sigopt == SECTION and not edits.values
    assert [file.name for file in path.parent.iterdir()] == ["dlrm.yaml"]


def test_the_section_is_added_to_a_file(tmp_path: Path) -> None:
    path = tmp_path / "dlrm.yaml"
    path.write_text("# Ours.\ntraining: {seed: 3}")
    write_section(path, SECTION)
    assert path.read_text().startswith("# Ours.\ntraining: {seed: 3}\nsigopt:\n")
    edits = read_edits(path)
    assert edits and edits.sigopt == SECTION and edits.values == {"seed": 3}


def test_a_section_is_replaced_only_on_request(tmp_path: Path) -> None:
    path = tmp_path / "dlrm.yaml"
    path.write_text(TEXT)
    with pytest.raises(CatalogError, match=r"has a section sigopt \(line 4\); state --overwrite"):
        write_section(path, SECTION)
    assert path.read_text() == TEXT
    write_section(path, SECTION, overwrite=True)
    assert path.read_text() == TEXT.replace(
        "  # from last year\n  observation_budget: 30\n", "  observation_budget: 7\n  metrics:\n  - {name: auc}\n"
    )


@pytest.mark.parametrize(
    "text", ["sigopt: {observation_budget: 30}\n", "sigopt:\n  metrics:\n  - name: auc\n  # the end\n", "sigopt: {}"]
)
def test_the_last_section_is_replaced(tmp_path: Path, text: str) -> None:
    path = tmp_path / "dlrm.yaml"
    path.write_text(text)
    write_section(path, SECTION, overwrite=True)
    edits = read_edits(path)
    assert edits and edits.sigopt == SECTION


def test_files_that_cannot_be_edited_are_left_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "dlrm.yaml"
    for text, said in (("{training: {seed: 3}}\n", "braces"), ("trainig: {}\n", "no such section"), ("a: [", "not valid YAML")):
        path.write_text(text)
        with pytest.raises(CatalogError, match=said):
            write_section(path, SECTION, overwrite=True)
        assert path.read_text() == text


def test_a_section_gives_the_search_again_whatever_is_advised(tmp_path: Path) -> None:
    (tmp_path / "experiment.yml").write_text(SIGOPT)
    search = read_search(tmp_path / "experiment.yml", load_recipe("dlrm")).search
    section = section_of(search, ["dense_lr", "top", "batch_size"])
    assert [one for one in section["parameters"] if one.get("remove")] == [
        {"name": "dense_lr", "remove": True},
        {"name": "top", "remove": True},
    ]
    write_section(tmp_path / "dlrm.yaml", section)
    edits = read_edits(tmp_path / "dlrm.yaml")
    assert edits is not None
    advised = [
        {"name": "dense_lr", "key": "dense_optimizer.lr", "type": "double", "bounds": {"min": 0.1, "max": 1}},
        {"name": "top", "key": "model.top", "type": "categorical", "categorical_values": ["64", "32"]},
    ]
    merged = {**yaml.safe_load((tmp_path / "dlrm.yaml").read_text())["sigopt"]}
    merged["parameters"] = edited_parameters(advised, edits.sigopt["parameters"])
    assert Search.model_validate(merged) == search
