"""The position of online training in a stream, which a checkpoint stores, and the files of slices that were taken."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

from upath import UPath

from ml.catalog.spec import DatasetSpec
from ml.lake import Lake
from ml.online.record import DayRecord
from ml.online.serving import SyncStats
from ml.online.stream import Position
from ml.stages import online_checkpoints, online_updates

STREAM = "stream"
"""Key of the manifest of a day that was trained from a stream: the position at its end."""


@dataclass
class ArrivingPosition:
    """The position of a checkpoint: after a slice and its synchronisation."""

    record: DayRecord
    position: Position = field(default_factory=Position)
    synced: SyncStats | None = None
    run_id: str = ""
    quarantined: Counter[str] = field(default_factory=Counter)
    lost: int = 0  # slices that were not trained on, with `restart: snapshot`

    @property
    def taken(self) -> int:
        """Number of slices of the day that were taken from the stream."""
        return len(self.record.slices) + self.lost

    def state_dict(self) -> dict[str, Any]:
        own = {"position": asdict(self.position), "run_id": self.run_id, "quarantined": dict(self.quarantined)}
        own["lost"] = self.lost
        return {**self.record.state_dict(), **own, "synced": asdict(self.synced) if self.synced else None}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.record.load_state_dict(state)
        self.position, self.run_id = Position(**state["position"]), state["run_id"]
        self.synced, self.quarantined = SyncStats(**state["synced"]), Counter(state["quarantined"])
        self.lost = state["lost"]


def rows_file(number: int) -> str:
    """Return the name of the file of the rows of a slice that was taken from a stream."""
    return f"{number:06d}.parquet"


def position_file(number: int) -> str:
    """Return the name of the file of the position in the stream after a slice."""
    return f"{number:06d}.json"


def taken_folder(stream: UPath, model: str) -> UPath:
    """Return the folder of the slices that a model has taken from a stream, by day."""
    return stream.parent / "taken" / model


def discard_sealed(lake: Lake, spec: DatasetSpec, model: str, stream: UPath, sealed: str) -> None:
    """Delete checkpoints and slices of sealed days, which a process that was killed at the end of a day leaves.

    If features depend on earlier events, the next day decides which slices it needs.

    Args:
        lake: Where states are stored.
        spec: The dataset.
        model: Name of the model.
        stream: The folder of arriving files.
        sealed: The newest sealed day.
    """
    stage, taken = online_checkpoints(model), taken_folder(stream, model)
    for name in lake.days(stage, spec.name):
        from_stream = STREAM in lake.manifest(stage, spec.name, name).get("identity", {}).get("data", {})
        if from_stream and name.rpartition(".")[0] <= sealed:
            lake.discard(stage, spec.name, name)
    for folder in list(taken.iterdir()) if taken.exists() else ():
        if folder.is_dir() and folder.name <= sealed and not spec.reads_earlier_events:
            folder.fs.rm(folder.path, recursive=True)


def sealed_day(lake: Lake, spec: DatasetSpec, model: str) -> str | None:
    """Return the newest day that was trained from a stream."""
    days = lake.days(online_updates(model), spec.name)
    return next((day for day in reversed(days) if STREAM in lake.manifest(online_updates(model), spec.name, day)), None)


def saved_checkpoints(lake: Lake, spec: DatasetSpec, model: str, day: str) -> list[dict[str, Any]]:
    """Return the manifests of a day's checkpoints, the newest first."""
    stage = online_checkpoints(model)
    saved = [lake.manifest(stage, spec.name, name) for name in lake.days(stage, spec.name) if name.startswith(f"{day}.")]
    return sorted(saved, key=lambda manifest: manifest["saved_at"], reverse=True)


def position_of(lake: Lake, spec: DatasetSpec, model: str) -> Position:
    """Return the position in the stream up to which rows are in a checkpoint or in a sealed day."""
    sealed = sealed_day(lake, spec, model)
    begun = day_in_progress(lake, spec, model, sealed)
    if begun and (saved := saved_checkpoints(lake, spec, model, begun)):
        return Position(**saved[0]["reader"]["position"])
    return Position(**lake.manifest(online_updates(model), spec.name, sealed)[STREAM]) if sealed else Position()


def day_in_progress(lake: Lake, spec: DatasetSpec, model: str, sealed: str | None) -> str | None:
    """Return the day of the newest checkpoint from a stream, if it is after the last sealed day."""
    stage = online_checkpoints(model)
    for name in reversed(lake.days(stage, spec.name)):
        if STREAM in lake.manifest(stage, spec.name, name).get("identity", {}).get("data", {}):
            day = name.rpartition(".")[0]
            return day if sealed is None or day > sealed else None
    return None
