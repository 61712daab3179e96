"""Searches of other tools become edits of a recipe, and what tuning searches is exported for them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from ml.advisor import plan
from ml.advisor.calibration import Calibration, made_with
from ml.advisor.cost import Speed
from ml.advisor.hardware import detect
from ml.advisor.typical_rates import TYPICAL_RATES
from ml.catalog.load import load_dataset
from ml.lake import Lake
from ml.recipes.dialects.read import read_search
from ml.recipes.dialects.write import as_yaml, to_sigopt
from ml.recipes.edits import read_edits
from ml.recipes.recipe import recipe_of
from ml.stages import FEATURE_PROFILES
from orchestration.deployments import lake_root
from orchestration.recipes import main
from tests.helpers.feature_profiles import profile_of
from tests.helpers.paths import ROOT
from tests.helpers.search_files import SDA_DLRM, SIGOPT

SKIPPED = [f"--skip={name}" for name in ("learning_rate", "lamb_lr", "lr_num_decay_steps")]


@pytest.fixture
def catalog_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "catalog"
    folder.mkdir()
    shutil.copy(ROOT / "catalog" / "synthetic.yaml", folder)
    for name, value in {"EVERGREEN_CATALOG": folder, "EVERGREEN_HOME": tmp_path, "DAGSTER_HOME": tmp_path}.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.delenv("EVERGREEN_LAKE", raising=False)
    (tmp_path / "sda.yaml").write_text(SDA_DLRM)
    (tmp_path / "experiment.yml").write_text(SIGOPT)
    return folder


def run(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


def test_the_exported_search_is_planned_with_the_calibration_of_the_home(
    catalog_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On this slow machine, the wish for time allows only the smallest model."""
    shutil.copy(ROOT / "catalog" / "criteo.yaml", catalog_folder)
    edits = catalog_folder / "recipes" / "criteo" / "dlrm.yaml"
    edits.parent.mkdir(parents=True)
    edits.write_text("wishes: {seconds: 1000}")
    spec, lake = load_dataset(catalog_folder / "criteo.yaml"), Lake.at(lake_root())
    for day in spec.days()[:4]:
        with lake.write(FEATURE_PROFILES, spec.name, day) as folder:
            lake.write_manifest(folder, {"fingerprint": spec.fingerprint, "digest": day, "rows": 300_000})
    monkeypatch.setattr(plan, "profile_of", lambda spec, days, lake: profile_of(spec, 300_000))
    slow = Speed({name: 1000 * rate for name, rate in TYPICAL_RATES.items()}, 0.0, 500_000_000)
    machine = detect().machine
    calibration = tmp_path / "calibration" / f"{machine}.json"
    calibration.parent.mkdir()
    calibration.write_text(Calibration(machine, made_with(), slow, 0.0).to_json())
    of_calibration, of_typical_rates = (
        plan.plan_tuning(spec, "dlrm", spec.days()[4], lake, detect(), home=home).search for home in (tmp_path, None)
    )
    exported = run("export", "criteo", "--day", spec.days()[4])
    assert exported.exit_code == 0, exported.output
    assert exported.stdout == as_yaml(to_sigopt(of_calibration, "dlrm")) != as_yaml(to_sigopt(of_typical_rates, "dlrm"))


def test_an_imported_search_is_what_tuning_searches(catalog_folder: Path) -> None:
    done = run("import", catalog_folder.parent / "experiment.yml", "synthetic", "--model", "dlrm")
    assert done.exit_code == 0, done.output
    path = catalog_folder / "recipes" / "synthetic" / "dlrm.yaml"
    assert f"wrote the section sigopt of {path}" in done.output and "AUC is read as auc" in done.output
    exported = run("export", "synthetic", "--model", "dlrm")
    assert exported.exit_code == 0, exported.output
    again = catalog_folder / "again.yml"
    again.write_text(exported.stdout)
    recipe = recipe_of(load_dataset(catalog_folder / "synthetic.yaml"), "dlrm")
    search = read_search(catalog_folder.parent / "experiment.yml", recipe).search
    found = read_search(again, recipe).search
    assert {one.name: one for one in found.parameters} == {one.name: one for one in search.parameters}
    assert found.model_copy(update={"parameters": ()}) == search.model_copy(update={"parameters": (), "project": None})


def test_the_advisors_file_is_imported_with_its_notes(catalog_folder: Path) -> None:
    file = catalog_folder.parent / "sda.yaml"
    refused = run("import", file, "synthetic")
    assert refused.exit_code == 1 and "was not imported" in refused.output and "--steps" in refused.output
    assert not (catalog_folder / "recipes").exists()
    done = run("import", file, "synthetic", "--steps", 16003, *SKIPPED)
    assert done.exit_code == 0, done.output
    assert "lamb_lr is left out" in done.output
    exported = yaml.safe_load(run("export", "synthetic", "--as", "sda").stdout)
    assert exported["project"] == "dlrm" and exported["experiment"] == "DLRM" and exported["observation_budget"] == 1
    assert "mlp_top_size" in [one["name"] for one in exported["parameters"]]


def test_edits_are_not_overwritten_unless_stated(catalog_folder: Path) -> None:
    path = catalog_folder / "recipes" / "synthetic" / "dlrm.yaml"
    path.parent.mkdir(parents=True)
    path.write_text("training: {seed: 3}\nsigopt: {observation_budget: 8}\n")
    refused = run("import", catalog_folder.parent / "experiment.yml", "synthetic")
    assert refused.exit_code == 1 and "--overwrite" in refused.output
    assert "observation_budget: 8" in path.read_text()
    assert run("import", catalog_folder.parent / "experiment.yml", "synthetic", "--overwrite").exit_code == 0
    edits = read_edits(path)
    assert edits and edits.values == {"seed": 3} and edits.sigopt["observation_budget"] == 60


def test_a_section_can_be_printed_instead(catalog_folder: Path) -> None:
    done = run("import", catalog_folder.parent / "experiment.yml", "synthetic", "--print")
    assert done.exit_code == 0 and yaml.safe_load(done.stdout)["sigopt"]["observation_budget"] == 60
    assert not (catalog_folder / "recipes").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("export", "nowhere"), "no dataset 'nowhere'"),
        (("export", "synthetic", "--model", "svd"), "no model 'svd'"),
        (("export", "synthetic", "--day", "2020-01-01"), "is not a day of synthetic"),
        (("import", __file__, "synthetic", "--metric", "MAP"), "is not a pair"),
    ],
)
def test_wrong_arguments_are_refused(catalog_folder: Path, words: tuple[str, ...], said: str) -> None:
    done = run(*words)
    assert done.exit_code == 2 and said in done.output


@pytest.mark.parametrize("dialect", ["sigopt", "sda"])
@pytest.mark.parametrize("model", ["dlrm", "wide_deep"])
def test_the_advised_search_is_exported_and_imported(catalog_folder: Path, model: str, dialect: str) -> None:
    exported = run("export", "criteo", "--model", model, "--as", dialect)
    assert exported.exit_code == 2
    shutil.copy(ROOT / "catalog" / "criteo.yaml", catalog_folder)
    exported = run("export", "criteo", "--model", model, "--as", dialect)
    assert exported.exit_code == 0, exported.output
    file = catalog_folder.parent / "exported.yaml"
    file.write_text(exported.stdout)
    done = run("import", file, "criteo", "--model", model)
    assert done.exit_code == 0, done.output
    assert run("export", "criteo", "--model", model, "--as", dialect).stdout == exported.stdout
