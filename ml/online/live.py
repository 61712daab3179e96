"""Online training that publishes: every synchronisation of a day becomes a package, which a receiver applies while it serves.

`LivePublisher` follows `ml.online.day`. The partition that the day writes does not depend on it. A run that was killed resumes
at its last checkpoint, and publishes the same packages again, which has no effect; a history that differs is refused
(`RunConflict`).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from ml.catalog.spec import DatasetSpec
from ml.lake import Lake
from ml.online.loop import SliceResult
from ml.online.published import PublishedServing
from ml.online.record import DayRecord
from ml.online.serving import SyncStats
from ml.online.serving_of_day import DayServing, ServingOfDay
from ml.online.start import Run
from ml.sync.folder import SyncFolder
from ml.sync.publisher import Published, Publisher
from ml.sync.receiver import Receiver
from ml.sync.status import ReceiverStatus
from ml.training.state import TrainState


@dataclass(frozen=True)
class LiveSlice:
    """What is shown of a slice.

    Attributes:
        number: Index of the slice in its day.
        until: Event time of its last row.
        rows: Number of rows.
        rows_per_second: Rows predicted and trained on in a second of work, without waiting.
        metric: `auc`, or `recall@20` if items are ranked.
        score: The metric of the slice by model; None if undefined. An AUC covers the rows whose labels became known in the
            slice. A ranking also has the `popularity` of the last hour.
        score_so_far: The metric of the day so far.
        published: The package that the serving model applied before the slice; None for the first one of a day.
        receiver: State of the receiver that serves.
    """

    number: int
    until: datetime
    rows: int
    rows_per_second: float
    metric: str
    score: dict[str, float | None]
    score_so_far: dict[str, float | None]
    published: Published | None
    receiver: ReceiverStatus


@dataclass
class LivePublisher:
    """Publishes a day of online training, keeps its pace, and reports each slice; an `ml.online.day.Observer`.

    Attributes:
        spec: The dataset.
        model: Name of the model.
        day: `YYYY-MM-DD`.
        lake: Where vocabularies are stored.
        folder: Where packages are published.
        receiver: A receiver that follows the folder.
        speed: Event time that passes in a second of wall time, in seconds; 0 for as fast as possible.
        on_slice: Called with what is shown of each slice.
        clock: Returns the time in seconds; only differences are used.
    """

    spec: DatasetSpec
    model: str
    day: str
    lake: Lake
    folder: SyncFolder
    receiver: Receiver
    speed: float = 0.0
    on_slice: Callable[[LiveSlice], None] | None = None
    clock: Callable[[], float] = time.monotonic
    _publisher: Publisher | None = None
    _published: Published | None = None
    _record: DayRecord | None = None
    _began: tuple[float, int] | None = None  # time on the clock, and event time then
    _due: float = 0.0

    def begin(self, state: TrainState, run: Run, record: DayRecord, serving: DayServing) -> None:
        """Open the run, and publish a snapshot unless the folder has this version already."""
        self._record = record
        if isinstance(serving, PublishedServing):  # it publishes
            self._publisher = serving.publisher
            return
        day = ServingOfDay(self.lake, self.spec, self.model, self.day, self.folder)
        self._publisher = day.publisher(state, run.run_id, run.version, None)
        self._publisher.begin()

    def synced(self, stats: SyncStats, serving: DayServing, learned: tuple[int, int] | None) -> None:
        """Publish what the serving model has received, unless it has been published."""
        assert self._publisher is not None
        if isinstance(serving, PublishedServing):
            self._published = serving.published
            return
        self._published = None
        if learned is not None:
            self._published = self._publisher.publish(learned, stats.has_dense, serving.delta)
            if stats.kind == "snapshot":
                self._publisher.snapshot(learned[1])

    def wait(self) -> float:
        """Return the seconds until the events of the next slice have arrived."""
        return max(self._due - self.clock(), 0.0) if self.speed else 0.0

    def trained(self, result: SliceResult) -> None:
        """Report a slice, and compute when the next one is due."""
        first, last = result.events
        if self._began is None:
            self._began = (self.clock(), first)
        self._due = self._began[0] + (last - self._began[1]) / 1e6 / self.speed if self.speed else 0.0
        if self.on_slice is None or self._record is None:
            return
        seconds = result.seconds["sync"] + result.seconds["train"]
        self.on_slice(
            LiveSlice(
                number=result.number,
                until=datetime.fromtimestamp(last / 1e6, UTC),
                rows=len(result.labels),
                rows_per_second=len(result.labels) / seconds if seconds else 0.0,
                metric=self._record.headline,
                score=self._record.of_slice(),
                score_so_far=self._record.so_far(),
                published=self._published,
                receiver=self.receiver.status,
            )
        )

    def end(self, state: TrainState, learned: tuple[int, int] | None) -> None:
        """Publish what the last slice and the end of the day have changed, and a snapshot; nothing after a day without rows."""
        assert self._publisher is not None
        if learned is not None:
            self._publisher.publish(learned, everything=True)  # the next day begins without held back rows
            self._publisher.snapshot(learned[1])
