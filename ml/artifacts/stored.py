"""Finds stored models in the lake, and compares them with their manifests."""

from __future__ import annotations

from upath import UPath

from ml.artifacts.snapshot import STATE, DamagedSnapshot, digest
from ml.lake import Lake


def require_model(lake: Lake, stage: str, dataset: str, day: str, fingerprint: str | None = None) -> UPath:
    """Return the folder of a stored model, after comparing its `state.json` with the manifest.

    `read_file` compares every other file with `state.json`, so that no bit of a model can change unnoticed.

    Args:
        lake: Where models are stored.
        stage: `tuned_models/<model>` or `exported_models/<model>`.
        dataset: Name of the dataset.
        day: `YYYY-MM-DD`.
        fingerprint: Fingerprint of the dataset that the model must have been written under; not checked by default.

    Raises:
        MissingPartition: The lake has no model of the day.
        StalePartition: The model was written under another specification.
        DamagedSnapshot: `state.json` has changed since it was written.
    """
    folder = lake.require(stage, dataset, day, fingerprint=fingerprint)
    try:
        found = digest(folder)
    except FileNotFoundError as error:
        raise DamagedSnapshot(f"{folder / STATE} is missing; {_way_out(stage)}") from error
    if found != lake.manifest(stage, dataset, day).get("digest"):
        raise DamagedSnapshot(f"{folder / STATE} is not the file that the manifest describes; {_way_out(stage)}")
    return folder


def _way_out(stage: str) -> str:
    again = "export its day again" if stage.startswith("exported_models") else "train its day again"
    return f"restore the folder from a copy, or {again}"
