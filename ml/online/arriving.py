"""Online training of arriving rows: follows a stream, trains on each part when it arrives, and publishes what was learned.

A part of the stream is a slice. After each slice the serving model is synchronised at once, and the delta is published. A
checkpoint holds the state, the position in the stream and what the serving model has. After a kill, training continues at the
last checkpoint and takes the later slices from the stream again, so each slice is trained on exactly once. With
`restart: snapshot`, the slices after the checkpoint are lost instead, as in the Monolith paper.

Versions count slices, so that deltas that were published before are published again with the same contents, which changes
nothing. If the contents differ, because a recipe or the stream has changed, a new run id begins with a snapshot.

A day ends when a row of a later day arrives. Its state becomes the partition `online_updates/<model>/<dataset>/<day>`, which no
other process can write while the day is followed. This module decides which day is trained; `ml.online.arriving_day` trains it.
"""

from __future__ import annotations

import itertools
import logging
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace

from upath import UPath

from ml.catalog.spec import DatasetSpec
from ml.lake import Lake
from ml.online.arriving_day import ArrivingDay, ArrivingOptions, TrainedSlice
from ml.online.arriving_position import STREAM, day_in_progress, discard_sealed, sealed_day
from ml.online.stream import Arrived, Position, StreamFolder
from ml.stages import online_updates
from ml.sync.folder import SyncFolder

_log = logging.getLogger("evergreen")


def follow(
    spec: DatasetSpec,
    lake: Lake,
    stream: StreamFolder,
    folder: SyncFolder,
    logs: str | UPath,
    wait: Callable[[float], bool],
    model: str | None = None,
    options: ArrivingOptions | None = None,
) -> Iterator[TrainedSlice]:
    """Train on arriving rows until `wait` returns True.

    Args:
        spec: The dataset.
        lake: Where states are stored.
        stream: The arriving rows. Files must stay in the folder until their day is in the lake.
        folder: Where the model is published.
        logs: The landing folder, which holds the side tables.
        wait: Waits some seconds and returns whether to stop, as `threading.Event.wait` does. It is also called after each part.
        model: One of the dataset's models; by default the first.
        options: Recipe, checkpoints and messages.

    Yields:
        Each slice once it has been trained on and published.

    Raises:
        BusyPartition: Another process is training the day.
        MissingPartition: The state to start from is missing.
        DivergedError: The loss is not finite.
        LostFile: A file of the stream was removed before all of its rows were taken.
    """
    options, model = options or ArrivingOptions(), model or spec.primary
    sealed = sealed_day(lake, spec, model)
    if sealed is not None:
        discard_sealed(lake, spec, model, stream.root, sealed)
    position = Position(**lake.manifest(online_updates(model), spec.name, sealed)[STREAM]) if sealed else Position()
    begun = day_in_progress(lake, spec, model, sealed)
    parts: Iterator[Arrived] | None = None
    while True:
        if begun is None:
            parts = parts or stream.follow(position, wait, options.on_message, stream.passed(position, model))
            first = _with_rows(parts)
            if first is None:
                return
            begun, parts = first.day or "", itertools.chain([first], parts)
        try:
            with lake.write(online_updates(model), spec.name, begun) as staging:  # excludes other writers of the day
                day = ArrivingDay(spec, begun, lake, stream, folder, logs, model, options)
                if parts is None:  # the day is known from a checkpoint
                    if not day.resumed:
                        raise _Outdated
                    position = day.at.position
                    parts = stream.follow(position, wait, options.on_message, stream.passed(position, model))
                next_day = yield from day.train(parts, wait)
                if next_day is None:
                    day.save()
                    raise _Stopped
                day.seal(staging)
                landed = day.land()
        except _Stopped:
            return
        except _Outdated:
            _log.warning("%s/%s: %s begins again, because its checkpoints are of other inputs", spec.name, model, begun)
            begun = None
            continue
        day.discard()
        options.on_message(landed)
        begun, parts = next_day.day, itertools.chain([next_day], parts)


def _with_rows(parts: Iterator[Arrived]) -> Arrived | None:
    """Return the first part that has rows, with what was quarantined before it; None if there is none."""
    quarantined: Counter[str] = Counter()
    for part in parts:
        quarantined.update(part.quarantined)
        if len(part.rows):
            return replace(part, quarantined=dict(quarantined))
    return None


class _Stopped(Exception):
    """Leaves the partition of a day that is not over as it was."""


class _Outdated(Exception):
    """No checkpoint of the day can be used."""
