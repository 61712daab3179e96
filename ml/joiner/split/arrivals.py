"""Writes the lines of a stream as a producer does: small files in the order of arrival, renamed into place.

A file covers a span of arrival time, and its name is the start of the span in UTC, so the names of both streams are in the
order of arrival.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa

from ml.joiner.split.events import ARRIVAL, BAD
from ml.joiner.split.json_lines import corrupt_lines, json_lines, text_of

PARTIAL = ".partial"
"""Suffix of a file that is being written."""


@dataclass
class Stream:
    """Lines of one stream that have happened, but may not have arrived.

    Args:
        folder: Where files are written. Created if it does not exist.
        key: A column of the key, for corrupt lines.
        time: Column of the event time, for corrupt lines.
        rng: Draws how lines are corrupt.

    Attributes:
        waiting: Lines in no particular order; None before the first.
        lines: Number of lines written.
        corrupt: Number of corrupt lines among them.
        files: Number of files written.
    """

    folder: Path
    key: str
    time: str
    rng: np.random.Generator
    waiting: pa.Table | None = None
    lines: int = 0
    corrupt: int = 0
    files: int = 0

    def add(self, lines: pa.Table) -> None:
        """Adds lines, with `ARRIVAL` and `BAD`."""
        self.waiting = lines if self.waiting is None else pa.concat_tables([self.waiting, lines])

    def take(self, until: int | None) -> pa.Table:
        """Removes the lines that arrive before an instant, or all, and returns them in the order of arrival."""
        if self.waiting is None:
            return pa.table({ARRIVAL: pa.array([], pa.int64())})
        arrival = self.waiting[ARRIVAL].to_numpy()
        arrived = np.ones(len(arrival), bool) if until is None else arrival < until
        taken = np.flatnonzero(arrived)
        taken = taken[np.argsort(arrival[taken], kind="stable")]
        found = self.waiting.take(pa.array(taken))
        self.waiting = self.waiting.filter(pa.array(~arrived)).combine_chunks()
        return found

    def write(self, name: str, pieces: list[bytes]) -> None:
        """Writes one file under another name, and renames it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        partial = self.folder / f".{name}{PARTIAL}"
        with partial.open("wb") as file:
            file.writelines(pieces)
        partial.rename(self.folder / name)
        self.files += 1


@dataclass
class Arrivals:
    """Writes several streams side by side, in the order of arrival.

    Args:
        streams: The streams.
        span: Time of arrival that one file covers, in microseconds.
        speed: Microseconds of the log that pass in a microsecond; 0 for as fast as possible.
        sleep: Waits some seconds.
    """

    streams: tuple[Stream, ...]
    span: int
    speed: float = 0.0
    sleep: Callable[[float], object] = time.sleep
    _began: tuple[float, int] | None = field(default=None, init=False)

    def write(self, until: int | None) -> None:
        """Writes all files whose span ends at an instant or before; all that are left without one.

        No line that is added later may arrive before the instant.
        """
        whole = None if until is None else until // self.span * self.span
        taken = [_Formatted.of(stream, stream.take(whole), self.span) for stream in self.streams]
        for slot in sorted({slot for one in taken for slot in one.bounds}):
            self._wait(slot)
            name = datetime.fromtimestamp(slot * self.span / 1e6, UTC).strftime("%Y%m%dT%H%M%S.%f") + ".jsonl"
            for stream, one in zip(self.streams, taken, strict=True):
                if slot in one.bounds:
                    stream.write(name, one.pieces(stream, *one.bounds[slot]))

    def _wait(self, slot: int) -> None:
        """Waits until the end of a span, if the log is written at a speed."""
        if not self.speed:
            return
        end = (slot + 1) * self.span
        self._began = self._began or (time.monotonic(), slot * self.span)
        began, first = self._began
        if (pause := began + (end - first) / 1e6 / self.speed - time.monotonic()) > 0:
            self.sleep(pause)


@dataclass(frozen=True)
class _Formatted:
    """Lines in the order of arrival, as text, and the first and last line of each file, by the number of its span."""

    lines: pa.Array
    bad: np.ndarray
    bounds: dict[int, tuple[int, int]]

    @classmethod
    def of(cls, stream: Stream, rows: pa.Table, span: int) -> _Formatted:
        if not len(rows):
            return cls(pa.array([], pa.large_string()), np.zeros(0, bool), {})
        slots = rows[ARRIVAL].to_numpy() // span
        bad = rows[BAD].to_numpy()
        numbers, starts = np.unique(slots, return_index=True)
        stops = [*starts[1:].tolist(), len(slots)]
        stream.lines += len(rows)
        stream.corrupt += int(np.count_nonzero(bad))
        bounds = dict(zip(numbers.tolist(), zip(starts.tolist(), stops, strict=True), strict=True))
        return cls(json_lines(rows.drop_columns([ARRIVAL, BAD])), bad, bounds)

    def pieces(self, stream: Stream, start: int, stop: int) -> list[bytes]:
        bad = self.bad[start:stop]
        if not bad.any():
            return [text_of(self.lines, start, stop)]
        return corrupt_lines(self.lines.slice(start, stop - start), bad, stream.key, stream.time, stream.rng)
