"""The stateful part of the live join: collects blocks of events by bucket, and joins a bucket once its wait is over.

Spark runs one `JoinProcessor` per partition of the keys in each batch, and stores its state in RocksDB. Blocks are packed
tables, so a batch costs a few state operations whatever the number of events.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import pyarrow as pa
from pyspark.sql import Row
from pyspark.sql.streaming.stateful_processor import StatefulProcessor, StatefulProcessorHandle, TimerValues

from ml.catalog.actions import Actions
from ml.catalog.log_spec import LogSpec
from ml.joiner.blocks import ACTIONS, IMPRESSIONS, SIDES, Layout, pack_blocks, unpack
from ml.joiner.join import join, look_back
from ml.joiner.keys import event_times
from ml.joiner.source import END
from ml.joiner.spool import Spool
from ml.logs.ingest_task import raw_schema

OUTPUT = "what string, text string"
EXAMPLES, UNMATCHED, LATE, COUNTS, STATE, READ = "examples", "unmatched", "late", "counts", "state", "read"
_KNOWN = 2  # side of the blocks of keys and times of impressions that were joined


@dataclass
class _State:
    """The state of one partition of the keys, without the blocks.

    Attributes:
        latest: For each side, the times that the two files with the latest times have reached, the later one first; -1 without.
        files: Last file that was read of each side.
        frontier: First bucket that was not joined yet; None before the first row.
        blocks: Numbers of blocks, rows and bytes by bucket, for impressions, actions and known impressions.
    """

    latest: list[list[int]] = field(default_factory=lambda: [[-1, -1], [-1, -1]])
    files: list[str] = field(default_factory=lambda: ["", ""])
    frontier: int | None = None
    blocks: list[dict[str, list[int]]] = field(default_factory=lambda: [{}, {}, {}])

    def advance(self, reached: Mapping[tuple[int, str], int]) -> None:
        """Moves the clock of each side.

        Args:
            reached: Time that each file of a batch has reached, by side and name; -1 without rows.
        """
        for (side, file), time in reached.items():
            self.latest[side] = sorted([*self.latest[side], time], reverse=True)[:2]
            self.files[side] = max(self.files[side], file)

    def size(self) -> tuple[int, int]:
        """Returns the rows and the bytes of all blocks."""
        found = [numbers for of_side in self.blocks for numbers in of_side.values()]
        return sum(rows for _, rows, _ in found), sum(size for *_, size in found)


class JoinProcessor(StatefulProcessor):
    """Joins the events of one partition of the keys.

    Args:
        rules: The catalog's `actions`.
        logs: The log of impressions and the log of actions.
        layout: Partitions and buckets.
        spool: Where the rows of the result are written.
    """

    def __init__(self, rules: Actions, logs: tuple[LogSpec, LogSpec], layout: Layout, spool: Spool) -> None:
        self._rules, self._layout, self._spool = rules, layout, spool
        self._schemas = [raw_schema(log) for log in logs]

    def init(self, handle: StatefulProcessorHandle) -> None:
        self._blocks = handle.getMapState("blocks", "bucket long, side int, number long", "payload binary")
        self._stored = handle.getValueState("state", "text string")

    def close(self) -> None:
        """Spark calls it at the end of a batch; there is nothing to release."""

    def handleInputRows(self, key: Any, rows: Iterator[Row], timerValues: TimerValues) -> Iterator[Row]:  # type: ignore[override]
        part = int(key[0])
        stored = self._stored.get() if self._stored.exists() else None
        state = _State(**json.loads(stored[0])) if stored else _State()
        held, reached = 0, dict[tuple[int, str], int]()
        for row in rows:
            file = (row.side, row.file)
            reached[file] = max(reached.get(file, -1), row.newest)
            held |= row.held
            if row.counts:
                yield _row(COUNTS, row.counts)
            if row.size >= 0:
                yield _row(READ, json.dumps({SIDES[row.side]: [[row.file, row.size]]}))
            if not row.rows:
                continue
            payload = bytes(row.payload)
            if state.frontier is not None and row.bucket < state.frontier:
                what = f"{LATE} {SIDES[row.side]}"
                yield _row(what, self._spool.write_rows(LATE, row.bucket, part, unpack(payload)))
                yield _row(COUNTS, json.dumps({what: row.rows}))
            else:
                self._store(state, row.bucket, row.side, row.rows, payload)
        state.advance(reached)
        for bucket in self._due(state, held):
            yield from self._join(part, state, bucket)
        self._stored.update((json.dumps(asdict(state)),))
        rows_held, bytes_held = state.size()
        clock: dict[str, Any] = {
            "newest": [latest for latest, _ in state.latest],
            "watermark": self._watermark(state, held),
            "files": state.files,
        }
        clock |= {"rows": rows_held, "bytes": bytes_held, "ended": bool(held & END)}
        ahead = [latest - self._reached(state, side) for side, (latest, second) in enumerate(state.latest) if second >= 0]
        clock |= {"ahead": max(ahead, default=0)}
        yield _row(STATE, json.dumps(clock))

    def _watermark(self, state: _State, held: int) -> int:
        """Returns the event time before which impressions are joined; -1 if it is not known.

        A side with further files in its folder holds the watermark back. One without does not, so that it is not waited for.
        A file that is ahead of all others of its side by more than the lateness does not move it: its clock may be wrong.
        """
        times = [self._reached(state, side) for side in (IMPRESSIONS, ACTIONS)]
        reached = min(time if held >> side & 1 else max(times) for side, time in enumerate(times))
        return reached - self._rules.wait - self._rules.lateness if reached >= 0 else -1

    def _reached(self, state: _State, side: int) -> int:
        """Returns the time that a side has reached: that of its latest file, or of the file before it if it is much earlier."""
        latest, second = state.latest[side]
        return second if latest - second > self._rules.lateness else latest

    def _due(self, state: _State, held: int) -> list[int]:
        """Returns the buckets to join, in order, and moves the frontier behind them."""
        filled = sorted({int(bucket) for side in (IMPRESSIONS, ACTIONS) for bucket in state.blocks[side]})
        if held & END:
            frontier = filled[-1] + 1 if filled else state.frontier
        else:
            watermark = self._watermark(state, held)
            frontier = watermark // self._layout.bucket if watermark >= 0 else None
        if frontier is None or (state.frontier is not None and frontier <= state.frontier):
            return []
        state.frontier = frontier
        return [bucket for bucket in filled if bucket < frontier]

    def _join(self, part: int, state: _State, bucket: int) -> Iterator[Row]:
        width = self._layout.bucket
        reach, back = -(-self._rules.wait // width), -(-look_back(self._rules) // width)
        shown = self._load(state, IMPRESSIONS, [bucket])
        acted = self._load(state, ACTIONS, range(bucket, bucket + reach + 1))
        earlier = self._load(state, _KNOWN, range(bucket - back, bucket))
        start, end = bucket * width, (bucket + 1) * width
        recent = earlier.filter(pa.array(event_times(earlier) >= start - look_back(self._rules))) if earlier else None
        actions = acted or self._schemas[ACTIONS].empty_table()
        found = join(self._rules, shown or self._schemas[IMPRESSIONS].empty_table(), actions, end, recent)
        if len(found.examples):
            yield _row(EXAMPLES, self._spool.write_examples(bucket, part, found.examples))
        if len(found.unmatched):
            yield _row(UNMATCHED, self._spool.write_rows(UNMATCHED, bucket, part, found.unmatched))
        counts = {f"action: {what}": count for what, count in found.actions.items()}
        counts |= {"examples": len(found.examples), "repeated impressions": found.repeated}
        counts |= {f"label: {name}": int(found.examples[name].to_numpy().sum()) for name in self._rules.labels}
        yield _row(COUNTS, json.dumps(counts))
        known = found.known.filter(pa.array(event_times(found.known) >= start))
        for side in (IMPRESSIONS, ACTIONS):
            self._delete(state, side, [bucket])
        self._delete(state, _KNOWN, [int(b) for b in state.blocks[_KNOWN] if int(b) < bucket + 1 - back])
        for rows, payload in pack_blocks(known):
            self._store(state, bucket, _KNOWN, rows, payload)

    def _store(self, state: _State, bucket: int, side: int, rows: int, payload: bytes) -> None:
        number, total, size = state.blocks[side].get(str(bucket), [0, 0, 0])
        self._blocks.updateValue((bucket, side, number), (payload,))
        state.blocks[side][str(bucket)] = [number + 1, total + rows, size + len(payload)]

    def _load(self, state: _State, side: int, buckets: Iterable[int]) -> pa.Table | None:
        tables = []
        for bucket in buckets:
            for number in range(_count(state, side, bucket)):
                found = self._blocks.getValue((bucket, side, number))
                assert found is not None
                tables.append(unpack(bytes(found[0])))
        # Blocks of earlier versions have no weights.
        return pa.concat_tables(tables, promote_options="default") if tables else None

    def _delete(self, state: _State, side: int, buckets: Iterable[int]) -> None:
        for bucket in buckets:
            for number in range(_count(state, side, bucket)):
                self._blocks.removeKey((bucket, side, number))
            state.blocks[side].pop(str(bucket), None)


def _count(state: _State, side: int, bucket: int) -> int:
    return state.blocks[side].get(str(bucket), [0])[0]


def _row(what: str, text: str) -> Row:
    return Row(what=what, text=text)
