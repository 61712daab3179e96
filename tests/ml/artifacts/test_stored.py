"""No stored model is read if a bit of any of its files has changed; the error names the file and the way out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ml.artifacts.snapshot import STATE, DamagedSnapshot
from ml.artifacts.stored import require_model
from ml.evaluation.models import models_before
from ml.export.day import export_day, load_export
from ml.lake import Lake, MissingPartition
from ml.recipes.export import ExportRecipe
from ml.tracking.model import log_model
from ml.training.day import DayOptions, train_day
from ml.training.load import load_model
from tests.helpers.snapshots import OPTIMIZER_FILE, WEIGHTS_FILE
from tests.helpers.training_days import made_spec, small_recipe, write_days

SPEC, TRAINED, EXPORTED = made_spec(), "tuned_models/dlrm", "exported_models/dlrm"


def train(lake: Lake, day: str) -> None:
    train_day(SPEC, day, lake, options=DayOptions(recipe=small_recipe(), progress=False))


def log(lake: Lake, day: str) -> None:
    run = SimpleNamespace(info=SimpleNamespace(experiment_id="1"))
    logged = SimpleNamespace(model_id="m", artifact_location="/nowhere")
    client: Any = SimpleNamespace(get_run=lambda _: run, create_logged_model=lambda *_: logged)
    log_model(client, "run", lake, SPEC, day, "dlrm", example_rows=0)


def flip(data: bytes) -> bytes:
    return data[:-40] + bytes([data[-40] ^ 0x01]) + data[-39:]


def damaged(folder: Path, name: str, change: Callable[[bytes], bytes | None]) -> None:
    changed = change((folder / name).read_bytes())
    if changed is None:
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(changed)


READERS: dict[str, Callable[[Lake, list[str]], object]] = {
    "training of the next day": lambda lake, days: train(lake, days[1]),
    "a next day without rows": lambda lake, days: train(lake, days[2]),
    "reports of the next day": lambda lake, days: models_before(SPEC, days[1], lake),
    "export": lambda lake, days: export_day(SPEC, days[0], lake, choice=ExportRecipe(layers="int8")),
    "MLflow": lambda lake, days: log(lake, days[0]),
    "loading": lambda lake, days: load_model(lake, SPEC, days[0]),
}
CHANGES = {"flipped": flip, "cut": lambda data: data[: len(data) // 2], "missing": lambda _: None}
TRAINING_ONLY = ("training of the next day", "a next day without rows")


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("file", [WEIGHTS_FILE, OPTIMIZER_FILE, STATE])
def test_every_reader_of_a_trained_day_refuses_a_changed_file(lake: Lake, file: str, change: str) -> None:
    days = write_days(lake, SPEC, 3, 0)
    write_days(lake, SPEC, 2, 200)
    train(lake, days[0])
    for reader, read in READERS.items():
        if file == OPTIMIZER_FILE and reader not in TRAINING_ONLY:
            continue
        of = days[0]
        if reader == "a next day without rows":
            train(lake, days[1])
            of = days[1]
        folder = Path(str(lake.partition(TRAINED, "made", of)))
        whole = (folder / file).read_bytes()
        damaged(folder, file, CHANGES[change])
        with pytest.raises(DamagedSnapshot, match=rf"{folder / file} is (not the file that|missing).*, or train its day again"):
            read(lake, days)
        (folder / file).write_bytes(whole)
        if reader == "a next day without rows":
            lake.discard(TRAINED, "made", of)
        assert lake.days(TRAINED, "made") == days[:1] and not lake.days(EXPORTED, "made"), reader


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("file", [WEIGHTS_FILE, STATE])
def test_a_changed_export_is_refused(lake: Lake, file: str, change: str) -> None:
    [day] = write_days(lake, SPEC, 1, 200)
    train(lake, day)
    folder = Path(str(export_day(SPEC, day, lake, choice=ExportRecipe(layers="int8")).folder))
    damaged(folder, file, CHANGES[change])
    with pytest.raises(DamagedSnapshot, match=rf"{folder / file} is (not the file that|missing).*export its day again"):
        load_export(lake, SPEC, day)


def test_a_model_that_is_whole_or_absent(lake: Lake) -> None:
    days = write_days(lake, SPEC, 2, 200)
    train(lake, days[0])
    assert require_model(lake, TRAINED, "made", days[0]) == lake.partition(TRAINED, "made", days[0])
    with pytest.raises(MissingPartition):
        require_model(lake, TRAINED, "made", days[1])
