"""Reports that decide the champion among `dlrm` and `deepfm` of the kiosk."""

from __future__ import annotations

import json

from ml.catalog.spec import DatasetSpec
from ml.days import shift_day
from ml.evaluation.history import ENTRY
from ml.evaluation.promotion import DAYS as TO_WIN
from ml.lake import Lake
from tests.helpers.kiosk_lake import experiment_spec

SPEC: DatasetSpec = experiment_spec(experiment=None)
FIRST_REPORT = "2025-12-20"  # before the exports of the kiosk


def write_report(lake: Lake, day: str, **aucs: float) -> None:
    models = {name: {"auc": auc, "log_loss": 0.5} for name, auc in aucs.items()}
    gain = {"value": aucs["deepfm"] - aucs["dlrm"], "error": 0.001, "df": 900}
    entry = {"day": day, "models": models, "comparisons": [{"one": "deepfm", "other": "dlrm", "auc": gain, "log_loss": None}]}
    with lake.write("evaluation_reports", SPEC.name, day) as staging:
        (staging / ENTRY).write_text(json.dumps(entry))
        lake.write_manifest(staging, {"day": day})


def make_champion(lake: Lake, name: str) -> None:
    """Write as many further reports as a model needs to become champion."""
    done = len(lake.days("evaluation_reports", SPEC.name))
    aucs = {model: 0.75 if model == name else 0.7 for model in SPEC.models}
    for number in range(TO_WIN):
        write_report(lake, shift_day(FIRST_REPORT, done + number), **aucs)
