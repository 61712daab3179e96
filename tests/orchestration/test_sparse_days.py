"""Days of no, few and many rows, of one class or of both, in any order: every asset's work reaches the last day.

The functions that the assets call are called here without Dagster and MLflow, which would take most of the time. A blocking
check fails the test as it would stop the run.
"""

from __future__ import annotations

import json
import random
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from ml.catalog.spec import DatasetSpec
from ml.compute.runner import LocalRunner
from ml.datasets.write import write_day
from ml.evaluation.evaluate import evaluate_day
from ml.evaluation.history import history_of
from ml.evaluation.models import models_before
from ml.evaluation.promotion import standings
from ml.evaluation.uncertainty import JUDGED_FROM
from ml.export.day import export_day, load_export
from ml.features.clean import clean_day
from ml.lake import Lake
from ml.logs.ingest import ingest_day
from ml.quality.validate import validate
from ml.stages import VALIDATED, exported_models, tuned_models
from ml.training.day import DayOptions, train_day
from tests.helpers.trials import seeds

DAYS = 60
ROWS = (0, 1, 10, 100)
KINDS = ("mixed", "clicked", "unclicked")


def sparse_spec(days: int) -> DatasetSpec:
    small = {"batch_size": 32, "model": {"embedding_dim": 4, "bottom": [8], "top": [8]}}
    last = datetime(2026, 1, 1) + timedelta(days=days - 1)
    return DatasetSpec.model_validate(
        {
            "name": "sparse",
            "description": "Few rows a day.",
            "source": {
                "files": "*.csv",
                "format": "csv",
                "columns": {"time": "int", "user": "int", "item": "int", "price": "float", "clicked": "int"},
            },
            "time": {"column": "time"},
            "partitions": {"start": "2026-01-01", "end": last.date().isoformat()},
            "label": {"column": "clicked"},
            "user": "user",
            "item": "item",
            "dense": ["price"],
            "sparse": ["user", {"name": "item", "vocabulary": {"min_count": 2}}],
            "slices": ["item"],
            "models": {"dlrm": {"overrides": small}, "wide_deep": {"overrides": {"batch_size": 32}}},
        }
    )


def write_log(folder: Path, spec: DatasetSpec, draw: random.Random) -> list[tuple[int, str]]:
    """Write one undated file. Returns the number of rows and the kind of each day."""
    folder.mkdir(parents=True)
    days = spec.days()
    # Every combination occurs, in random order.
    plan = [(rows, kind) for rows in ROWS for kind in KINDS] * -(-len(days) // (len(ROWS) * len(KINDS)))
    draw.shuffle(plan)
    lines = []
    for day, (rows, kind) in zip(days, plan, strict=False):
        midnight = int(datetime.fromisoformat(f"{day}T00:00:00+00:00").timestamp())
        for second in sorted(draw.sample(range(86_400), rows)):
            item = draw.randrange(9)
            clicked = {"clicked": 1, "unclicked": 0}.get(kind, int(draw.random() < (item + 1) / 12))
            lines.append(f"{midnight + second},{draw.randrange(20)},{item},{draw.random():.3f},{clicked}\n")
    (folder / "events.csv").write_text("".join(lines))
    return plan[: len(days)]


def run_day(spec: DatasetSpec, day: str, lake: Lake, logs: Path) -> dict[str, Any]:
    """Do what a run of the day does. Returns the report."""
    runner = LocalRunner()
    work = {
        "raw_logs": lambda: ingest_day(spec.log, day, str(logs), lake, runner),
        "cleaned_features": lambda: clean_day(spec, day, lake, str(logs), runner),
        "mds_datasets": lambda: write_day(spec, day, lake, runner),
    }
    for stage in VALIDATED:
        work[stage]()
        checked = validate(spec, stage, day, lake)
        assert checked.passed, [verdict for verdict in checked.verdicts if not verdict.passed]
    for model in spec.models:
        train_day(spec, day, lake, model, DayOptions(progress=False))
        export_day(spec, day, lake, model)
    return evaluate_day(spec, day, lake, models_before(spec, day, lake)).metrics


@pytest.mark.soak
@pytest.mark.slow
@pytest.mark.parametrize("seed", seeds(1))
def test_every_order_of_sparse_days_reaches_the_end(seed: int, tmp_path: Path) -> None:
    spec, lake = sparse_spec(DAYS), Lake.at(tmp_path / "home")
    plan = write_log(tmp_path / "logs", spec, random.Random(seed))
    words = set()
    for day, (rows, kind) in zip(spec.days(), plan, strict=True):
        report = run_day(spec, day, lake, tmp_path / "logs")
        assert report["data"]["rows"] == rows and (kind == "mixed" or report["data"]["clicks"] in (0, rows))
        clicked = report["data"]["clicks"]
        judged = report["models"] and min(clicked, rows - clicked) >= JUDGED_FROM
        word = report["verdict"]["word"]
        assert (word == "unknown") or judged, report["verdict"]
        words.add(word)
        for model in spec.models:
            trained, exported = (lake.manifest(stage(model), spec.name, day) for stage in (tuned_models, exported_models))
            assert exported["snapshot"] == trained["digest"]
            assert bool(trained["kept_from"]) == (rows == 0 and day != spec.days()[0]) or rows
    assert len(words) > 1, "days of 100 rows of both classes are judged"
    for model in spec.models:
        load_export(lake, spec, spec.days()[-1], model)
    assert json.dumps(standings(history_of(lake, spec.name))[-1].champion)


@pytest.mark.slow
def test_a_rare_label_is_calibrated_from_the_second_day_on(tmp_path: Path) -> None:
    """Days of 1,500 rows with eight clicks, by the default recipe."""
    written = sparse_spec(3).model_dump(mode="json", exclude={"models"}, exclude_unset=True)
    spec, lake, draw = DatasetSpec.model_validate(written), Lake.at(tmp_path / "home"), random.Random(5)
    (tmp_path / "logs").mkdir()
    for day in spec.days():
        midnight = int(datetime.fromisoformat(f"{day}T00:00:00+00:00").timestamp())
        clicks = set(draw.sample(range(1500), 8))
        lines = [
            f"{midnight + 57 * n},{draw.randrange(300)},{draw.randrange(80)},0.5,{int(n in clicks)}\n" for n in range(1500)
        ]
        (tmp_path / "logs" / f"{day}.csv").write_text("".join(lines))
    assert list(spec.models) == ["dlrm"]
    first, *later = [run_day(spec, day, lake, tmp_path / "logs") for day in spec.days()]
    assert not first["models"], "no model is older than the first day"
    for report in later:
        assert 0.5 <= report["models"]["dlrm"]["calibration"] <= 2


def test_hundreds_of_days_without_rows_cost_little(tmp_path: Path) -> None:
    """Every day after the first keeps its model and its export, however many there are; ten stand for them here."""
    spec, lake = sparse_spec(11), Lake.at(tmp_path / "home")
    (tmp_path / "logs").mkdir()
    first = int(datetime.fromisoformat("2026-01-01T00:00:00+00:00").timestamp())
    lines = [f"{first + 60 * i},{i % 7},{i % 5},0.5,{i % 2}\n" for i in range(100)]
    (tmp_path / "logs" / "events.csv").write_text("".join(lines))
    for day in spec.days():
        report = run_day(spec, day, lake, tmp_path / "logs")
        assert report["day"] == day
    assert "no rows" in report["verdict"]["sentences"][0]
    for model in spec.models:
        for stage in (tuned_models(model), exported_models(model)):
            assert lake.manifest(stage, spec.name, spec.days()[-1])["kept_from"] == spec.days()[0]
