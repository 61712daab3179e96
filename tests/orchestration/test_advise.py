from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from ml.advisor.profiles.days import days_to_profile
from ml.advisor.profiles.profile import FeatureProfile
from ml.catalog.load import load_catalog
from ml.lake import Lake
from ml.recipes.recipe import RECIPES
from ml.stages import FEATURE_PROFILES
from orchestration import advise
from tests.helpers.feature_profiles import profile_of
from tests.ml.advisor.test_advise import CALIBRATION

CRITEO = load_catalog()["criteo"]


@pytest.fixture
def profiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lake:
    """A lake with profiles of four days after a gap, and a machine whose calibration is known."""
    lake = Lake.at(str(tmp_path / "lake"))
    for day in (CRITEO.days()[0], *CRITEO.days()[2:6]):
        with lake.write(FEATURE_PROFILES, CRITEO.name, day) as folder:
            lake.write_manifest(folder, {"fingerprint": CRITEO.fingerprint, "digest": day, "rows": 300_000})

    def read(spec: object, days: list[str], lake: Lake) -> FeatureProfile:
        return FeatureProfile(**vars(profile_of(CRITEO, 300_000)) | {"days": tuple(days), "rows": 300_000 * len(days)})

    monkeypatch.setattr(advise, "profile_of", read)
    monkeypatch.setattr(advise, "calibration_of", lambda home, hardware: CALIBRATION)
    monkeypatch.setattr(advise, "quiet_console", lambda: None)
    monkeypatch.setenv("EVERGREEN_HOME", str(tmp_path))
    monkeypatch.setenv("EVERGREEN_LAKE", str(tmp_path / "lake"))
    return lake


def run(*words: str) -> str:
    done = CliRunner().invoke(advise.main, ["criteo", *words], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def refused(*words: str) -> str:
    done = CliRunner().invoke(advise.main, ["criteo", *words], catch_exceptions=False)
    assert done.exit_code != 0
    return done.output


def test_the_newest_days_in_a_row_are_used(profiled: Lake) -> None:
    days = CRITEO.days()
    every, two = (days_to_profile(CRITEO, profiled, most=count) for count in (None, 2))
    assert (every, two) == (days[2:6], days[4:6])
    assert f"From the profile of {days[4]} to {days[5]}" in run("--days", "2")


def test_an_outdated_profile_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lake = Lake.at(str(tmp_path))
    with lake.write(FEATURE_PROFILES, CRITEO.name, CRITEO.days()[0]) as folder:
        lake.write_manifest(folder, {"fingerprint": "another", "digest": "d", "rows": 3})
    monkeypatch.setenv("EVERGREEN_HOME", str(tmp_path))
    monkeypatch.setenv("EVERGREEN_LAKE", str(tmp_path))
    monkeypatch.setattr(advise, "quiet_console", lambda: None)
    assert "feature_profiles" in refused()


def test_advice_is_printed_with_predictions(profiled: Lake) -> None:
    assert "From the profile of 2014-01-03 to 2014-01-06" in run() and "of one core for a day" in run()
    assert run("--markdown").startswith("### Recipe of dlrm for criteo")


def test_the_recipe_is_printed_in_sections_that_can_be_edits(profiled: Lake) -> None:
    printed = yaml.safe_load(run("--recipe", "--model", "deepfm"))
    assert printed["training"]["batch_size"] == 512


def test_the_search_is_printed(profiled: Lake) -> None:
    printed = run("--recipe", "--search", "--trials", "7", "--parallel", "2")
    found = yaml.safe_load(printed[printed.index("sigopt:") : printed.index("sigopt.observation_budget: 7 trials")])["sigopt"]
    assert (found["observation_budget"], found["parallel_bandwidth"]) == (7, 2)


def test_wishes_reach_the_advice(profiled: Lake) -> None:
    text = " ".join(run("--seconds", "0.001", "--memory", "1kb", "--target", "auc=0.76").split())
    assert "seconds of one core: the limit is 0.001" in text and "bytes of memory: the limit is 1000" in text
    assert "early_stop.target" in text


def test_wishes_of_the_edits_are_followed_unless_an_option_says_otherwise(
    profiled: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    edits = tmp_path / "dlrm.yaml"
    edits.write_text("wishes: {memory: 1kb, target: {auc: 0.76}}")
    wished = CRITEO.model_copy(update={"models": {"dlrm": CRITEO.models["dlrm"].found_in(RECIPES, edits)}})
    monkeypatch.setattr(advise, "the_dataset", lambda name: wished)
    assert "bytes of memory: the limit is 1000" in " ".join(run().split()) and "early_stop.target" in run()
    assert "bytes of memory: the limit is 2000" in " ".join(run("--memory", "2kb").split())
    edits.write_text("wishes: {memory: 1}")
    assert "wishes.memory: expected text, found 1" in refused()


def test_without_profiles_only_rules_that_need_none_apply(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVERGREEN_HOME", str(tmp_path))
    monkeypatch.setattr(advise, "quiet_console", lambda: None)
    assert "There is no profile of earlier days" in run()
    assert not (tmp_path / "calibration").exists()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--model", "dlrn"), "criteo has no model 'dlrn'; its models are dlrm"),
        (("--memory", "2"), "expected a size such as 500mb or 2gb, found '2'"),
        (("--memory", "0gb"), "expected a size"),
        (("--target", "auc=2"), "is not a target such as auc=0.76"),
        (("--target", "recall=0.5"), "is not a target"),
        (("--seconds", "0"), "--seconds"),
        (("--days", "0"), "--days"),
    ],
)
def test_wrong_options_are_refused(profiled: Lake, words: tuple[str, ...], expected: str) -> None:
    assert expected in refused(*words)


def test_a_wrong_file_of_rules_is_refused(profiled: Lake, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("rules: [{name: x}]")
    assert "rules.0.reason" in refused("--rules", str(tmp_path / "mine.yaml"))
