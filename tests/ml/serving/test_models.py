"""Which state of a model is served: its newest export, or what online training publishes after it."""

from __future__ import annotations

from pathlib import Path

import torch

from ml.artifacts.bundle import write_inputs
from ml.artifacts.predictor import TorchPredictor
from ml.artifacts.snapshot import digest
from ml.days import day_bounds
from ml.lake import Lake
from ml.serving.models import ExportedModel, NewestModel
from ml.sync.receiver import Receiver
from ml.sync.serving_copy import serving_copy
from tests.helpers.sync_runs import Run, serves
from tests.helpers.training_days import made_spec

SPEC = made_spec()
FIRST, SECOND = SPEC.days()[:2]


def export(lake: Lake, day: str, run: Run) -> None:
    copied = serving_copy(run.state, "float32")
    with lake.write("exported_models/dlrm", SPEC.name, day) as folder:
        TorchPredictor(copied.model, copied.recipe, copied.schema).save(folder, write_inputs(folder, SPEC, {}))
        lake.write_manifest(folder, {"digest": digest(folder), "fingerprint": SPEC.fingerprint})


def test_published_versions_are_served_until_a_later_day_is_exported(tmp_path: Path) -> None:
    lake, run = Lake.at(tmp_path / "lake"), Run(tmp_path / "sync")
    export(lake, FIRST, run)
    end = day_bounds(FIRST, SPEC.zone)[1]
    model = NewestModel(ExportedModel(lake, SPEC, "dlrm"), Receiver(run.folder, "server"), SPEC, "dlrm")
    assert (model.version.source, model.version.version) == ("lake", FIRST)  # what is published is older than the export
    held = model.bundle

    run.train()
    run.publisher.publish((end, end + 1_000_000))
    run._note()
    assert model.poll() and (model.version.source, model.version.version) == ("sync", "1")
    assert serves(model.bundle, run.history[1]) and model.bundle is not held
    assert not model.poll()

    run.train()
    run.publisher.publish((end + 1_000_000, end + 2_000_000))
    run._note()
    assert model.poll() and serves(model.bundle, run.history[2]) and model.version.event_to == end + 2_000_000

    run.train()
    export(lake, SECOND, run)
    assert model.poll() and (model.version.source, model.version.version) == ("lake", SECOND)
    parameters = dict(model.bundle.predictor.model.named_parameters())  # type: ignore[attr-defined]
    wanted = dict(serving_copy(run.state, "float32").model.named_parameters())
    assert all(torch.equal(parameters[name], wanted[name]) for name in wanted)


def test_a_damaged_package_leaves_the_served_version(tmp_path: Path) -> None:
    lake, run = Lake.at(tmp_path / "lake"), Run(tmp_path / "sync")
    export(lake, FIRST, run)
    end = day_bounds(FIRST, SPEC.zone)[1]
    model = NewestModel(ExportedModel(lake, SPEC, "dlrm"), Receiver(run.folder, "server"), SPEC, "dlrm")
    for number in (1, 2):
        run.train()
        run.publisher.publish((end + number, end + number + 1))
        run._note()
        if number == 2:
            [file] = run.package("delta", 2).glob("*.safetensors")
            file.write_bytes(file.read_bytes()[:-1] + b"\x01")
        model.poll()
    assert model.version.version == "1" and serves(model.bundle, run.history[1])
    assert model.version.last_refusal is not None and "damaged" in model.version.last_refusal
