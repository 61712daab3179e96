"""Export of a day: lineage, manifest, and the refusal of exports that lose too much accuracy."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from ml.artifacts.snapshot import DamagedSnapshot, digest
from ml.catalog.spec import DatasetSpec
from ml.datasets.reader import BlockReader
from ml.evaluation.compare import Estimate
from ml.export import day as export
from ml.export.day import ExportedDay, ExportRefused, export_day, load_export, rows_to_score
from ml.lake import Lake, MissingPartition, StalePartition
from ml.metrics import ClickSums
from ml.models.predict import predict
from ml.recipes.export import ExportRecipe
from ml.recipes.recipe import load_recipe
from ml.recipes.sampling import Correction
from ml.training.day import DayOptions, train_day
from ml.training.load import load_model
from tests.helpers.snapshots import WEIGHTS_FILE, record_digests
from tests.helpers.training_days import made_spec, small_recipe, write_days

STAGE, ALL, ROWS = "exported_models/dlrm", ("train", "validation", "test"), 600
# Rows with large weights: 16 steps between the smallest and the largest are too few.
COARSE: dict[str, Any] = {
    "model": {"embedding_dim": 8, "bottom": [8], "top": [8]},
    "tables": {"features": {}, "init_scale": 2.0},
    "table_optimizer": {"lr": 0.5},
}
INT8 = ExportRecipe(layers="int8")


@pytest.fixture
def days(lake: Lake) -> list[str]:
    """Three days, two of them trained."""
    days = write_days(lake, made_spec(), 3, ROWS)
    for day in days[:2]:
        train_day(made_spec(), day, lake, options=DayOptions(recipe=small_recipe(**COARSE), progress=False))
    return days


@pytest.fixture
def sensitive(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets the few rows of these tests prove a small loss."""
    monkeypatch.setattr(export, "REFUSED_BELOW", 0.1)


def exported(lake: Lake, day: str, choice: ExportRecipe = INT8) -> ExportedDay:
    return export_day(made_spec(), day, lake, choice=choice)


def test_an_export_scores_as_the_trained_model_and_takes_less(lake: Lake, days: list[str]) -> None:
    done = exported(lake, days[1])
    bundle, trained = load_export(lake, made_spec(), days[1]), load_model(lake, made_spec(), days[1])
    batch = next(iter(BlockReader(lake, made_spec(), [days[2]], splits=ALL, batch_size=ROWS)))
    ours, theirs = torch.from_numpy(bundle.score(batch)), torch.sigmoid(trained(batch.dense, batch.sparse))
    assert (ours - theirs).abs().max() < 0.05 and (ours - theirs).abs().mean() < 0.01
    assert done.bytes_after < 0.6 * done.bytes_before
    assert done.quantised.lost <= INT8.max_auc_loss


def test_the_manifest_describes_the_export(lake: Lake, days: list[str]) -> None:
    done = exported(lake, days[1])
    manifest, found = lake.manifest(STAGE, "made", days[1]), done.quantised
    source = lake.manifest("tuned_models/dlrm", "made", days[1])
    assert manifest["snapshot"] == source["digest"] == manifest["lineage"][f"tuned_models/dlrm/{days[1]}"]
    assert manifest["digest"] == digest(done.folder) and manifest["fingerprint"] == made_spec().fingerprint
    limits = {"max_auc_loss": 0.0005, "min_tower_recall": 0.9, "max_latency_ms": None}
    assert manifest["export"] == {"rows": "int8", "tables": {}, "layers": "int8", **limits}
    assert manifest["towers"] is None
    assert manifest["bytes"] == {"before": done.bytes_before, "after": done.bytes_after}
    assert manifest["before"] == asdict(found.before) and manifest["after"] == asdict(found.after)
    assert found is not None and found.loss.error is not None
    losses = {"all": found.lost, "error": found.loss.error, "by_tables": found.by_tables, "by_layers": found.by_layers}
    assert manifest["lost"] == {"metric": "AUC", **losses}
    assert set(manifest["tables"]) == {"a", "b", "tags"}
    assert manifest["tables"]["a"] == asdict(found.tables["a"])
    assert manifest["tables"]["a"]["rows"] == 6 and manifest["tables"]["a"]["nbytes"] == 6 * 12
    assert not lake.is_outdated(STAGE, "made", days[1])


def test_a_rerun_gives_the_same_bytes(lake: Lake, days: list[str]) -> None:
    first = exported(lake, days[1])
    once = lake.manifest(STAGE, "made", days[1])
    assert exported(lake, days[1]).folder == first.folder and lake.manifest(STAGE, "made", days[1]) == once


def test_earlier_days_are_scored_only_if_the_day_has_few_rows_and_later_ones_never(
    lake: Lake, days: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = exported(lake, days[1]).folder / "manifest.json"
    assert lake.manifest(STAGE, "made", days[1])["days_scored"] == days[:2], manifest
    assert lake.manifest(STAGE, "made", days[1])["rows_scored"] == 2 * ROWS
    monkeypatch.setattr(export, "ROWS", ROWS)
    scored, batch = rows_to_score(lake, made_spec(), days[1])
    assert scored == [days[1]] and batch is not None and len(batch) == ROWS
    monkeypatch.setattr(export, "ROWS", ROWS // 2)
    scored, some = rows_to_score(lake, made_spec(), days[1])
    assert scored == [days[1]] and some is not None and len(some) == ROWS // 2
    assert float(some.event_time.double().std()) == pytest.approx(float(batch.event_time.double().std()), rel=0.1)


def test_days_of_another_specification_are_not_scored(lake: Lake, days: list[str]) -> None:
    other = lake.manifest("mds_datasets", "made", days[0]) | {"fingerprint": "another"}
    lake.write_manifest(lake.partition("mds_datasets", "made", days[0]), other)
    assert rows_to_score(lake, made_spec(), days[1])[0] == [days[1]]


@pytest.mark.usefixtures("sensitive")
def test_an_export_that_loses_too_much_is_refused_and_the_previous_one_stays(lake: Lake, days: list[str]) -> None:
    with pytest.raises(ExportRefused) as refused:
        exported(lake, days[1], ExportRecipe(rows="int4"))
    assert not lake.has(STAGE, "made", days[1])
    said = str(refused.value)
    assert said.startswith(f"made/{STAGE} of {days[1]}: AUC goes from 0.9")
    assert f"on {2 * ROWS} rows of {days[0]} to {days[1]}" in said and "max_auc_loss is 0.0005" in said
    assert "alone: " in said and "as int4" in said and "Give these tables more bits (export.tables)" in said
    exported(lake, days[1])
    before = lake.manifest(STAGE, "made", days[1])
    with pytest.raises(ExportRefused):
        exported(lake, days[1], ExportRecipe(rows="int4"))
    assert lake.manifest(STAGE, "made", days[1]) == before
    load_export(lake, made_spec(), days[1])
    exported(lake, days[1], ExportRecipe(rows="int4", max_auc_loss=0.05))
    assert lake.manifest(STAGE, "made", days[1])["export"]["rows"] == "int4", "the way out"


@pytest.mark.usefixtures("sensitive")
def test_the_refusal_says_where_the_key_goes(lake: Lake, days: list[str]) -> None:
    with pytest.raises(
        ExportRefused, match=r"standard error of 0\.0\d+; .*made\.yaml, these keys go below models\.dlrm\.overrides"
    ):
        exported(lake, days[1], ExportRecipe(rows="int4"))
    described = made_spec().model_dump(mode="json") | {"models": {"dlrm": {"overrides": {"export": {"rows": "float16"}}}}}
    assert export_day(DatasetSpec.model_validate(described), days[1], lake).folder.exists(), "as the message says"


@pytest.mark.parametrize(("error", "refused"), [(0.002, True), (0.003, False), (None, False)])
def test_only_a_loss_beyond_its_sampling_error_is_refused(
    error: float | None, refused: bool, lake: Lake, days: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ml.export.quantise.loss_of", lambda *_: Estimate(0.01, error, 500))
    with pytest.raises(ExportRefused) if refused else nullcontext():
        exported(lake, days[1])
    assert lake.has(STAGE, "made", days[1]) != refused


def test_a_loss_that_chance_explains_is_not_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """With a limit that every export exceeds: on 20 rows nothing is proven, and the log says so."""
    lake = Lake.at(tmp_path / "few")
    (day,) = write_days(lake, made_spec(), 1, 20)
    train_day(made_spec(), day, lake, options=DayOptions(recipe=small_recipe(**COARSE), progress=False))
    done = exported(lake, day, ExportRecipe(rows="int4", max_auc_loss=0.0))
    assert done.quantised is not None and lake.manifest(STAGE, "made", day)["lost"]["error"] == done.quantised.loss.error
    assert not done.quantised.loss.is_above(0.0, export.REFUSED_BELOW)
    assert done.quantised.lost <= 0 or "but not significantly" in caplog.text


def test_days_that_were_not_trained_are_refused(lake: Lake, days: list[str]) -> None:
    with pytest.raises(MissingPartition, match=rf"made/tuned_models/dlrm of {days[2]}"):
        exported(lake, days[2])


def test_without_any_rows_the_model_is_exported_as_it_was_trained(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    none = Lake.at(tmp_path / "empty")
    (day,) = write_days(none, made_spec(), 1, 0)
    train_day(made_spec(), day, none, options=DayOptions(recipe=small_recipe(**COARSE), progress=False))
    done = exported(none, day)
    assert done.quantised is None and none.manifest(STAGE, "made", day)["rows_scored"] == 0
    assert "have no rows to measure a loss on; exported as float32" in caplog.text
    other = Lake.at(tmp_path / "other")
    (of_other,) = write_days(other, made_spec(), 1, 50)
    batch = next(iter(BlockReader(other, made_spec(), [of_other], splits=ALL, batch_size=50)))
    bundle, trained = load_export(none, made_spec(), day), load_model(none, made_spec(), day)
    assert torch.allclose(torch.from_numpy(bundle.score(batch)), torch.sigmoid(trained(batch.dense, batch.sparse)))


def test_days_without_rows_keep_the_last_export(
    lake: Lake, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "LOOK_BACK_DAYS", 2)
    spec, recipe = made_spec(), small_recipe(**COARSE)
    days = write_days(lake, spec, 5, 0)
    write_days(lake, spec, 1, ROWS)
    for day in days:
        train_day(spec, day, lake, options=DayOptions(recipe=recipe, progress=False))
        done = exported(lake, day)
        manifest = lake.manifest(STAGE, "made", day)
        assert manifest["snapshot"] == lake.digest("tuned_models/dlrm", "made", day) and not lake.is_outdated(
            STAGE, "made", day
        )
        assert done.kept_from == (None if day == days[0] else days[0]) == manifest.get("kept_from")
        assert manifest["rows_scored"] == ROWS and manifest["days_scored"] == [days[0]]
        load_export(lake, spec, day)
    assert f"of {days[4]}: nothing was trained on the day; the export of {days[0]} is kept" in caplog.text
    assert exported(lake, days[4], ExportRecipe(rows="float16")).kept_from is None, "by another choice it is made again"


def test_a_kept_export_that_is_damaged_is_refused(lake: Lake) -> None:
    spec, recipe = made_spec(), small_recipe(**COARSE)
    days = write_days(lake, spec, 2, 0)
    write_days(lake, spec, 1, ROWS)
    for day in days:
        train_day(spec, day, lake, options=DayOptions(recipe=recipe, progress=False))
    weights = exported(lake, days[0]).folder / WEIGHTS_FILE
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-100] + bytes([whole[-100] ^ 0x40]) + whole[-99:])
    with pytest.raises(DamagedSnapshot, match=f"{WEIGHTS_FILE}"):
        exported(lake, days[1])
    assert not lake.has(STAGE, "made", days[1])


def test_foreign_and_damaged_exports_are_refused(lake: Lake, days: list[str]) -> None:
    weights = exported(lake, days[1]).folder / WEIGHTS_FILE
    dense = [{"name": "d0", "log1p": True}, {"name": "d1"}]
    other = DatasetSpec.model_validate(made_spec().model_dump(mode="json") | {"dense": dense})
    with pytest.raises(StalePartition, match=f"made now has {other.fingerprint}. Restore the entry as it was"):
        load_export(lake, other, days[1])
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-100] + bytes([whole[-100] ^ 0x40]) + whole[-99:])
    with pytest.raises(DamagedSnapshot, match=f"{WEIGHTS_FILE} is not the file that state.json describes"):
        load_export(lake, made_spec(), days[1])
    record_digests(Path(str(weights.parent)))
    with pytest.raises(DamagedSnapshot, match=r"state\.json is not the file that the manifest describes; .*export its"):
        load_export(lake, made_spec(), days[1])


def test_sampled_rows_are_scored_with_corrected_logits(lake: Lake, days: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """With `sampling_correction`, the accuracy is measured on logits minus the log of `sample_rate`."""
    train_day(
        made_spec(), days[0], lake, options=DayOptions(recipe=small_recipe(**COARSE, sampling_correction=True), progress=False)
    )
    _, batch = rows_to_score(lake, made_spec(), days[0])
    assert batch is not None
    sampled = replace(batch, sample_rate=torch.full((len(batch),), 0.1))
    monkeypatch.setattr(export, "rows_to_score", lambda *_: ([days[0]], sampled))
    model = load_model(lake, made_spec(), days[0])
    wanted = ClickSums.of(batch.labels.numpy(), predict(model, [sampled], Correction(per_row=True))).log_loss
    assert exported(lake, days[0]).quantised.before.log_loss == pytest.approx(wanted, rel=1e-5)


def test_the_export_section_does_not_change_the_fingerprint_of_a_recipe() -> None:
    recipe = load_recipe("dlrm", {"export": {"rows": "int4", "tables": {"C3": "float16"}}})
    assert recipe.export == ExportRecipe(rows="int4", tables={"C3": "float16"})
    assert recipe.fingerprint == load_recipe("dlrm").fingerprint


def test_the_dataset_s_recipe_is_the_default(lake: Lake, days: list[str]) -> None:
    described = made_spec().model_dump(mode="json")
    spec = DatasetSpec.model_validate(described | {"recipe": {"overrides": {"export": {"rows": "float16"}}}})
    done = export_day(spec, days[1], lake)
    assert done.quantised.choice == ExportRecipe(rows="float16")
