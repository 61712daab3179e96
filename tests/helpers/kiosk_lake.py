"""A lake with raw logs, features and exported models of one day of the kiosk, whose models have random weights."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import torch

from ml.artifacts.bundle import write_inputs
from ml.artifacts.predictor import TorchPredictor
from ml.artifacts.snapshot import digest
from ml.catalog.spec import DatasetSpec
from ml.lake import Lake
from ml.models.build import build_model
from ml.parquet import write_table
from ml.recipes.recipe import recipe_of
from ml.schema import FeatureSchema
from tests.helpers.kiosk_days import DAYS, kiosk, kiosk_day, put_features

DAY = DAYS[0]
HOUR = 3_600_000_000
MIDNIGHT = 1_767_225_600_000_000  # 2026-01-01 UTC
END = MIDNIGHT + 24 * HOUR


def spec_of(**changes: object) -> DatasetSpec:
    model = {"kind": "two_tower", "user": ["user", "place", "history"], "item": ["item", "clicks_1h"]}
    tables = {"default": {"kind": "hashed", "rows": 512}}  # whose rows are not zero before they are trained
    models = {"dlrm": {"overrides": {"tables": tables}}, "two_tower": {"overrides": {"model": model, "tables": tables}}}
    return kiosk(**({"models": models} | changes))


def raw_rows(seed: int = 0, count: int = 400) -> pa.Table:
    rng = np.random.default_rng(seed)
    return pa.table(
        {
            "event_time": MIDNIGHT + (np.sort(rng.uniform(0, 24, count)) * HOUR).astype(np.int64),
            "time": rng.integers(0, 9, count),
            "user": rng.integers(1, 30, count),
            "item": rng.integers(1, 40, count),
            "visit": rng.integers(1, 80, count),
            "place": rng.choice(["here", "there"], count),
        }
    )


def put_raw(lake: Lake, spec: DatasetSpec, rows: pa.Table, day: str = DAY) -> None:
    with lake.write("raw_logs", spec.name, day) as folder:
        write_table(rows, folder / "rows" / "part-00000.parquet")
        lake.write_manifest(folder, {"fingerprint": spec.log.fingerprint})


def export(lake: Lake, spec: DatasetSpec, model: str, day: str = DAY, change: float = 1.0, seed: int = 0) -> None:
    torch.manual_seed(seed)
    recipe, schema = recipe_of(spec, model), FeatureSchema.of(spec)
    built = build_model(recipe, schema).eval()
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.mul_(change)
    with lake.write(f"exported_models/{model}", spec.name, day) as folder:
        TorchPredictor(built, recipe, schema).save(folder, write_inputs(folder, spec, {}))
        lake.write_manifest(folder, {"digest": digest(folder), "fingerprint": spec.fingerprint})


def kiosk_lake(root: object) -> Lake:
    lake, spec = Lake.at(str(root)), spec_of()
    put_raw(lake, spec, raw_rows())
    put_features(lake, spec, DAY, kiosk_day(spec, DAY))
    for model in spec.models:
        export(lake, spec, model)
    return lake


def experiment_spec(**changes: object) -> DatasetSpec:
    """The kiosk with a log of impressions and an experiment between two models."""
    columns = {"time": "int", "user": "int", "item": "int", "visit": "int", "place": "string", "clicked": "int"}
    tables = {"overrides": {"tables": {"default": {"kind": "hashed", "rows": 512}}}}
    declared: dict[str, object] = {
        "source": {"files": "*.csv", "format": "csv", "columns": columns},
        "label": {"column": "clicked"},
        "dense": [],
        "sparse": ["user", "item", "place"],
        "session": None,
        "models": {"dlrm": tables, "deepfm": tables},
        "experiment": {"name": "deep", "shares": {"dlrm": 0.7, "deepfm": 0.3}},
    }
    return kiosk(**(declared | changes))


def experiment_lake(root: object) -> Lake:
    """A lake of `experiment_spec` with a day of impressions."""
    lake, spec, rows = Lake.at(str(root)), experiment_spec(), raw_rows()
    put_raw(lake, spec, rows.append_column("clicked", pa.array(np.arange(len(rows)) % 3 == 0).cast(pa.int64())))
    for number, model in enumerate(spec.models):
        export(lake, spec, model, seed=number)
    return lake
