"""The probe set of receivers: the latest labelled rows before a day."""

from __future__ import annotations

import logging

from ml.catalog.spec import DatasetSpec
from ml.datasets.reader import BlockReader
from ml.lake import Lake
from ml.recipes.recipe import Recipe
from ml.stages import MDS_DATASETS
from ml.sync.probe import Probe

_BATCH = 2048
_log = logging.getLogger("evergreen")


def probe_day(lake: Lake, spec: DatasetSpec, before: str | None = None) -> str | None:
    """Return the newest day in the lake with training data, before a day if one is given; None without any."""
    held = (day for day in reversed(lake.days(MDS_DATASETS, spec.name)) if before is None or day < before)
    return next((day for day in held if lake.is_current(MDS_DATASETS, spec.name, day, spec.fingerprint)), None)


def probe_of(lake: Lake, spec: DatasetSpec, recipe: Recipe, before: str | None = None) -> Probe | None:
    """Build the probe of a recipe.

    Args:
        lake: Where training data are stored.
        spec: The dataset.
        recipe: Its `online.sync.probe` has the number of rows.
        before: A day; the rows are of the newest day before it. By default, they are of the newest day.

    Returns:
        The probe; None if the recipe has none, or there are no rows yet.
    """
    wanted = recipe.online.sync.probe
    if wanted is None:
        return None
    day = probe_day(lake, spec, before)
    reader = BlockReader(lake, spec, [day], splits=recipe.splits, batch_size=_BATCH, order="time") if day else None
    if reader is None or not reader.rows:
        _log.warning("%s has no training data yet, so its receivers have no probe set", spec.name)
        return None
    count = max(reader.rows // wanted.rows, 1)
    (last,) = reader.slices(count=count, first=count - 1)
    batches = [chunk.whole for chunk in last.chunks(_BATCH)]
    return Probe(batches, wanted.log_loss_tolerance, wanted.auc_tolerance)
