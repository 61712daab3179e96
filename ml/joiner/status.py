"""The progress of a live join, as stored after each batch.

| file below `stream/<dataset>/` | content                                                     |
|--------------------------------|-------------------------------------------------------------|
| impressions/, actions/         | the arriving files                                          |
| examples/                      | what was joined, one file or several for each batch         |
| unmatched/, late/, quarantine/ | rows that are in no example, with the reason                |
| joiner/status.json             | this status                                                 |
| joiner/read.jsonl              | the files that were read (`ml.joiner.read_files`)           |
| joiner/checkpoint/             | Spark's offsets and state                                   |
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass, field, replace

from upath import UPath

from ml.joiner.blocks import SIDES
from ml.joiner.join import LATE, NO_KEY, match_rate

HOURS = 24
_HOURLY_TOTALS = "hours"  # their name in files


def joiner_folder(root: UPath) -> UPath:
    """Returns the folder of the checkpoint, the status and the record of read files of a stream.

    Args:
        root: `<home>/stream/<dataset>`.
    """
    return root / "joiner"


@dataclass(frozen=True)
class StreamStatus:
    """The progress of a stream after a batch.

    Attributes:
        batch: Number of the batch.
        written_at: When the batch was written, in seconds since 1970 UTC.
        files: Last file that was read of each side; empty before the first.
        newest: Event time that each side has reached, in microseconds since 1970 UTC; -1 before its first row.
        watermark: Event time before which impressions were joined; -1 before the first row.
        state_rows: Events in the state.
        state_bytes: Bytes of these events.
        counts: Totals by name since the first start: events, examples, labels, outcomes of actions, late and quarantined rows.
        before: The totals before this batch, from which it is counted again if it is repeated.
        ended: Whether the batch has ended the stream: everything was joined.
        ahead: Microseconds by which one file is ahead of the others of its log, if the watermark waits for a second one; or 0.
        hourly_totals: The last `HOURS` hours, numbered since 1970, in which batches were written, and the totals before each of
            them. Files name them `hours`.
    """

    batch: int
    written_at: float
    files: dict[str, str]
    newest: dict[str, int]
    watermark: int
    state_rows: int
    state_bytes: int
    counts: dict[str, int]
    before: dict[str, int] = field(default_factory=dict)
    ended: bool = False
    ahead: int = 0
    hourly_totals: list[tuple[int, dict[str, int]]] = field(default_factory=list)

    @property
    def recent(self) -> StreamStatus:
        """The status with the counts of the last `HOURS` hours instead of totals. Faults are judged by it."""
        earlier = Counter(self.hourly_totals[0][1] if self.hourly_totals else {})
        return replace(self, counts=dict(Counter(self.counts) - earlier))

    @property
    def match_rate(self) -> float | None:
        """Share of actions that counted for an example, without repeated ones; None without actions."""
        return match_rate(self.actions)

    @property
    def actions(self) -> dict[str, int]:
        """Actions by outcome, of all whose bucket was joined."""
        return {what[8:]: count for what, count in self.counts.items() if what.startswith("action: ")}

    @property
    def late(self) -> int:
        """Events that arrived after the examples that they belong to were written. The daily catch-up has them."""
        return self.counts.get("late impressions", 0) + self.counts.get("late actions", 0) + self.actions.get(LATE, 0)

    @property
    def late_share(self) -> float:
        """Share of all events that were late."""
        events = sum(self.counts.get(side, 0) for side in SIDES)
        return self.late / events if events else 0.0

    @property
    def quarantined(self) -> int:
        """Rows and files that could not be used."""
        return sum(count for what, count in self.counts.items() if what.startswith("quarantined: "))

    @property
    def quarantined_share(self) -> float:
        """Share of quarantined rows among all rows that were read."""
        rows = sum(self.counts.get(side, 0) for side in SIDES)
        # Rows without a key are among the rows of their side; other rows in quarantine are not.
        total = rows + self.quarantined - self.counts.get(f"quarantined: {NO_KEY}", 0)
        return self.quarantined / total if total else 0.0

    @property
    def watermark_lag(self) -> float:
        """Seconds of event time from the watermark to the newest event. It includes the wait and the lateness."""
        return (max(self.newest.values()) - self.watermark) / 1e6 if self.watermark >= 0 else 0.0

    def write(self, folder: UPath) -> None:
        """Stores the status in a folder, which exists."""
        staged = folder / ".status.json"
        values = asdict(self)
        values[_HOURLY_TOTALS] = values.pop("hourly_totals")
        staged.write_text(json.dumps(values, indent=1))
        staged.rename(folder / "status.json")

    @classmethod
    def read(cls, folder: UPath) -> StreamStatus | None:
        """Reads the status in a folder; None if there is none."""
        try:
            found = json.loads((folder / "status.json").read_text())
        except FileNotFoundError:
            return None
        hourly_totals = [(hour, counts) for hour, counts in found.pop(_HOURLY_TOTALS, [])]
        return cls(**found, hourly_totals=hourly_totals)


def next_totals(last: StreamStatus | None, batch: int) -> Counter[str]:
    """Returns the totals before a batch. A batch that is repeated after a crash is not counted twice."""
    if last is None:
        return Counter()
    return Counter(last.counts if last.batch < batch else last.before)


def next_hourly_totals(last: StreamStatus | None, before: dict[str, int], now: float) -> list[tuple[int, dict[str, int]]]:
    """Returns `StreamStatus.hourly_totals` of a batch.

    Args:
        last: The status before it.
        before: The totals before it.
        now: When the batch is written, in seconds since 1970 UTC.
    """
    hour = int(now // 3600)
    kept = [(of, counts) for of, counts in (last.hourly_totals if last else []) if of > hour - HOURS]
    return kept if kept and kept[-1][0] >= hour else [*kept, (hour, before)]
