"""Rollback of a model of the service: to the export before the version that is served, or to a given day."""

from __future__ import annotations

from dataclasses import dataclass

from ml.catalog.spec import DatasetSpec
from ml.days import day_bounds
from ml.lake import Lake
from ml.serving.models import load_export
from ml.serving.pins import Pins
from ml.serving.ranker import NAME, load_day
from ml.stages import CANDIDATE_INDEX, exported_models
from ml.sync.folder import SyncFolder
from ml.sync.manifest import DamagedPackage
from ml.sync.packages import Packages
from ml.sync.status import Refused


class NothingToServe(LookupError):
    """There is no day to roll back to, or its model cannot be served; the message says why."""


@dataclass(frozen=True)
class Rollback:
    """What a rollback has left, and what is served from now on.

    Attributes:
        model: Name of the model, or `lambdarank`.
        left: Day of an export, or `sync` for what online training publishes.
        day: The day that is served.
    """

    model: str
    left: str
    day: str


def roll_back(
    lake: Lake, spec: DatasetSpec, pins: Pins, model: str, synced: SyncFolder | None = None, to: str | None = None
) -> Rollback:
    """Pin a model to an earlier day. The day's model is loaded first, so that a damaged one is never pinned.

    Args:
        lake: Where models are stored.
        spec: The dataset.
        pins: The pins of the dataset.
        model: One of the dataset's models, or `lambdarank`.
        synced: The sync folder of the model; None without one.
        to: The day; by default, the newest one before the pin, or before the newest export. An export that services have
            refused counts as well, so name the day then. If online training is ahead of the exports, this is
            the newest export.

    Raises:
        NothingToServe: There is no earlier day, or the model of the given day is missing or cannot be loaded.
        WrongPin: The present pin cannot be read.
    """
    days = lake.days(CANDIDATE_INDEX if model == NAME else exported_models(model), spec.name)
    newest = days[-1] if days else ""
    left = pins.day_of(model) or ("sync" if synced and newest and _is_ahead(synced, spec, newest) else newest)
    earlier = [to] if to else [day for day in reversed(days) if left == "sync" or day < left]
    reasons = []
    for day in earlier:
        try:
            if model == NAME:
                load_day(lake, spec, day)
            else:
                load_export(lake, spec, model, day)
        except Refused as error:
            reasons.append(f"{day}: {error}")
            continue
        pins.pin(model, day)
        return Rollback(model, left, day)
    if reasons:
        raise NothingToServe("; ".join(reasons))
    held = f"the lake has {', '.join(days)}" if days else "the lake has no day of it"
    raise NothingToServe(f"{spec.name}/{model} serves {left or 'no version'}, and there is no earlier day: {held}")


def _is_ahead(folder: SyncFolder, spec: DatasetSpec, day: str) -> bool:
    """Whether online training has published events after the export of a day, so that a service follows it."""
    try:
        head = folder.head()
        if head is None:
            return False
        kind = "delta" if head.version > head.snapshot else "snapshot"
        manifest = Packages(folder, head.run_id).manifest(kind, head.version)
    except (DamagedPackage, Refused, OSError):
        return False  # the service does not follow such a folder either
    return (manifest.event_to or 0) >= day_bounds(day, spec.zone)[1]
