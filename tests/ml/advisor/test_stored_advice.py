"""The advice of a day: from days before it, kept while the size of a day is alike, and applied below what the user has set."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ml.advisor.day import advise_day
from ml.advisor.hardware import Hardware
from ml.advisor.profiles.day import profile_day
from ml.advisor.stored_advice import StoredAdvice, advice_of_day
from ml.catalog.spec import DatasetSpec
from ml.lake import Lake
from ml.recipes.recipe import RECIPES, recipe_of
from ml.stages import advisor_recipes
from tests.helpers.training_days import made_spec, write_days

STAGE = advisor_recipes("dlrm")


def spec_with(**recipe: Any) -> DatasetSpec:
    return DatasetSpec.model_validate(made_spec().model_dump(mode="json") | {"recipe": recipe})


@pytest.fixture
def days(lake: Lake) -> list[str]:
    days = write_days(lake, made_spec(), 4, 640)
    for day in days:
        profile_day(made_spec(), day, lake)
    return days


def stored(lake: Lake, day: str) -> StoredAdvice:
    advice = StoredAdvice.from_manifest(lake.manifest(STAGE, "made", day))
    assert advice is not None
    return advice


def test_only_profiles_of_days_before_the_day_are_used(lake: Lake, days: list[str]) -> None:
    spec = spec_with()
    assert advice_of_day(spec, "dlrm", days[0], lake, None).days == ()
    assert advice_of_day(spec, "dlrm", days[2], lake, recipe_of(spec, "dlrm")).days == tuple(days[:2])


def test_advice_is_kept_while_days_are_alike(lake: Lake, days: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    spec = spec_with()
    for day in days:
        advise_day(spec, "dlrm", day, lake)
    assert stored(lake, days[0]).days == ()
    assert [stored(lake, day) for day in days[1:]] == [stored(lake, days[1])] * 3
    assert stored(lake, days[1]).days == tuple(days[:1])
    whole = {"rows": 640_000, "fingerprint": spec.fingerprint}
    for day in days[:3]:
        manifest = lake.manifest("feature_profiles", "made", day) | whole
        lake.write_manifest(lake.partition("feature_profiles", "made", day), manifest)
    assert advice_of_day(spec, "dlrm", days[3], lake, None).days == tuple(days[:3]), "a day has many more rows than before"


def test_a_rerun_keeps_the_advice_although_the_machine_has_changed(
    lake: Lake, days: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from ml.advisor import stored_advice

    spec = spec_with()
    for day in days[:2]:
        advise_day(spec, "dlrm", day, lake)
    before = lake.manifest(STAGE, "made", days[1])
    monkeypatch.setattr(stored_advice, "detect", lambda: Hardware("another processor", 64, 1 << 40))
    advise_day(spec, "dlrm", days[1], lake)
    assert lake.manifest(STAGE, "made", days[1]) == before


def with_edits(path: Path, text: str) -> DatasetSpec:
    path.write_text(text)
    spec = spec_with()
    return spec.model_copy(update={"models": {"dlrm": spec.models["dlrm"].found_in(RECIPES, path)}})


def test_a_change_of_the_wishes_gives_advice_again_and_a_rerun_reproduces_it(
    lake: Lake, days: list[str], tmp_path: Path
) -> None:
    for day in days[:2]:
        advise_day(spec_with(), "dlrm", day, lake)
    wished = with_edits(tmp_path / "dlrm.yaml", "wishes: {target: {auc: 0.7}, memory: 1kb, seconds: 100}")
    for _ in range(2):
        done = advise_day(wished, "dlrm", days[2], lake)
        assert done.recipe.early_stop and done.recipe.early_stop.target == 0.7
        assert done.advice.wishes == {"seconds": 100, "memory": 1000.0, "target": ["auc", 0.7]} and done.advice.days == tuple(
            days[:2]
        )
        assert any("the limit is 1000" in warning for warning in done.advice.warnings)
        assert done.search.metrics[0].threshold == 0.7
        assert done.origins["sigopt.metrics.auc.threshold"].endswith("dlrm.yaml, wishes")
    advise_day(wished, "dlrm", days[3], lake)
    assert stored(lake, days[3]) == stored(lake, days[2]), "kept while the wishes are the same"
    assert advise_day(spec_with(), "dlrm", days[3], lake).recipe.early_stop is None


def test_a_wish_about_time_is_a_threshold_for_the_days_of_a_trial(lake: Lake, days: list[str], tmp_path: Path) -> None:
    wished = with_edits(tmp_path / "dlrm.yaml", "wishes: {seconds: 5}\nsigopt: {window_days: 4}")
    quality, time = advise_day(wished, "dlrm", days[0], lake).search.metrics
    assert quality.threshold is None
    assert (time.name, time.strategy, time.threshold) == ("training_time", "optimize", 10)


def test_advice_is_given_again_on_a_machine_with_less_memory(
    lake: Lake, days: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from ml.advisor import stored_advice

    def on(memory: int, day: str) -> StoredAdvice:
        monkeypatch.setattr(stored_advice, "detect", lambda: Hardware("a processor", 2, memory))
        return advise_day(spec_with(), "dlrm", day, lake).advice

    on(8 << 30, days[0])
    assert on(8 << 30, days[1]).memory == 0.8 * (8 << 30)
    assert on(64 << 30, days[2]).memory == 0.8 * (8 << 30), "kept on a larger machine"
    before = lake.manifest(STAGE, "made", days[2])
    on(1 << 20, days[2])
    assert lake.manifest(STAGE, "made", days[2]) == before, "a rerun on a smaller machine keeps advice of the day before"
    small = on(1 << 20, days[3])
    assert small.memory == 0.8 * (1 << 20) and any("this machine's memory" in warning for warning in small.warnings)
    before = lake.manifest(STAGE, "made", days[3])
    on(64 << 30, days[3])
    assert lake.manifest(STAGE, "made", days[3]) == before, "a rerun keeps the day's advice"


def test_advice_of_an_earlier_version_is_read(lake: Lake, days: list[str]) -> None:
    done = advise_day(spec_with(), "dlrm", days[0], lake)
    manifest = lake.manifest(STAGE, "made", days[0])
    for new in ("warnings", "wishes", "memory"):
        del manifest["advice"][new]
    del manifest["cores"]
    lake.write_manifest(lake.partition(STAGE, "made", days[0]), manifest)
    again = advise_day(spec_with(), "dlrm", days[0], lake)
    assert again.recipe == done.recipe and again.advice.memory is None


def test_advice_is_applied_below_the_users_values_or_only_explained(
    lake: Lake, days: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from ml.advisor import day as module

    value = {
        "key": "batch_size",
        "value": 64,
        "shipped": 256,
        "rule": "batch",
        "reason": "r",
        "source": "s",
        "structural": False,
    }
    other = value | {"key": "label_smoothing", "value": 0.1, "shipped": 0.0, "rule": "smooth"}
    layers = (
        {"origin": "advice, batch", "values": {"batch_size": 64}},
        {"origin": "advice, smooth", "values": {"label_smoothing": 0.1}},
    )
    advice = StoredAdvice((), None, layers, (value, other), (), ())
    monkeypatch.setattr(module, "advice_of_day", lambda *_: advice)
    done = advise_day(spec_with(overrides={"batch_size": 100}), "dlrm", days[0], lake)
    assert (done.recipe.batch_size, done.recipe.label_smoothing) == (100, 0.1)
    assert done.origins["label_smoothing"] == "advice, smooth"
    explained = advise_day(spec_with(advice="explain"), "dlrm", days[0], lake)
    assert explained.recipe == recipe_of(spec_with(), "dlrm")
    assert [each["key"] for each in stored(lake, days[0]).values] == ["batch_size", "label_smoothing"]


@pytest.mark.parametrize("edited", [100, 64])
def test_advice_that_an_edit_hides_applies_when_the_edit_is_removed(
    lake: Lake, days: list[str], tmp_path: Path, edited: int
) -> None:
    rules = tmp_path / "mine.yaml"
    rules.write_text("rules: [{name: small, set: {batch_size: 64}, reason: Days of a test are small., source: a measurement}]")
    edits = tmp_path / "dlrm.yaml"
    edits.write_text(f"training: {{batch_size: {edited}}}")
    spec = spec_with(rules=[str(rules)])
    spec = spec.model_copy(update={"models": {"dlrm": spec.models["dlrm"].found_in(RECIPES, edits)}})
    for day in days[:3]:
        assert advise_day(spec, "dlrm", day, lake).recipe.batch_size == edited
    edits.unlink()
    for day in (days[3], *days):  # the next day, and reruns
        done = advise_day(spec, "dlrm", day, lake)
        assert (done.recipe.batch_size, done.origins["batch_size"]) == (64, "advice, small"), day
        written = lake.manifest(STAGE, "made", day)
        advise_day(spec, "dlrm", day, lake)
        assert lake.manifest(STAGE, "made", day) == written


def test_rules_of_the_entry_reach_recipes_and_a_change_of_them_gives_new_advice(
    lake: Lake, days: list[str], tmp_path: Path
) -> None:
    def write(size: int, comment: str = "") -> None:
        rule = f"{{name: small, set: {{batch_size: {size}}}, reason: Days of a test are small., source: a measurement}}"
        parameter = "{name: smoothing, key: label_smoothing, range: [0, 0.1]}"
        rules.write_text(f"{comment}rules: [{rule}]\nsearch: [{parameter}]")

    rules, spec = tmp_path / "mine.yaml", spec_with(rules=[str(tmp_path / "mine.yaml")])
    write(64)
    first = advise_day(spec, "dlrm", days[1], lake)
    assert (first.recipe.batch_size, first.origins["batch_size"]) == (64, "advice, small")
    assert "smoothing" in [parameter.name for parameter in first.search.parameters]
    write(64, comment="# ours\n")
    assert advise_day(spec, "dlrm", days[2], lake).advice == first.advice
    write(128)
    changed = advise_day(spec, "dlrm", days[3], lake)
    assert changed.recipe.batch_size == 128 and changed.advice.days == tuple(days[:3])
    plain = advise_day(spec_with(), "dlrm", days[3], lake)
    assert plain.recipe.batch_size == recipe_of(spec, "dlrm").batch_size, "without the rules, their advice does not remain"


def test_advice_given_again_keeps_what_the_structure_in_use_is_made_from(lake: Lake, days: list[str]) -> None:
    present = recipe_of(spec_with(), "dlrm").model_copy(update={"exclude_features": ("b",)})
    value = {"rule": "r", "reason": "r", "source": "s"}
    structural = value | {"key": "exclude_features", "value": ["b"], "shipped": [], "structural": True}
    hidden = value | {"key": "batch_size", "value": 64, "shipped": 256, "structural": False}
    layers = ({"origin": "advice, r", "values": {"exclude_features": ["b"], "label_smoothing": 0.1}},)
    tuned = StoredAdvice((), None, layers, (structural,), (hidden,), ())
    pinned = spec_with(overrides={"batch_size": 100})
    assert advice_of_day(pinned, "dlrm", days[1], lake, present, tuned) == tuned
    found = advice_of_day(spec_with(), "dlrm", days[1], lake, present, tuned)
    assert found.applied[0] == {"origin": "advice, r", "values": {"exclude_features": ["b"]}}
    assert found.days == tuple(days[:1]) and structural in found.values


def test_advice_that_does_not_fit_is_not_applied_with_a_warning(
    lake: Lake, days: list[str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from ml.advisor import day as module

    layer = {"origin": "advice, batch", "values": {"batch_size": 0}}
    monkeypatch.setattr(module, "advice_of_day", lambda *_: StoredAdvice((), None, (layer,), (), (), ()))
    assert advise_day(spec_with(), "dlrm", days[0], lake).recipe == recipe_of(spec_with(), "dlrm")
    assert "the advice does not fit the overrides and is not applied" in caplog.text


def test_the_layers_of_stored_advice_are_those_of_the_advice() -> None:
    from ml.advisor.advise import advise
    from ml.catalog.load import load_catalog
    from tests.helpers.feature_profiles import profile_of, sparse_profile

    spec = load_catalog()["criteo"]
    profile = profile_of(spec, sparse={"C3": sparse_profile(2_000_000, 8_000_000, singles=0.9)})
    advice = advise(spec, "dlrm", profile, Hardware("a processor", 2, 8 << 30))
    found = StoredAdvice.of(advice)
    assert found.layers == advice.layers
    assert any("C3" in str(layer.values) for layer in found.layers), "a rule changes a table"
