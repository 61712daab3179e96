"""Runs a live join batch by batch without Spark: the source, the processor with its state in memory, and the writer."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.sql import Row
from upath import UPath

from ml.catalog.spec import DatasetSpec
from ml.joiner.processor import JoinProcessor
from ml.joiner.service import Joining, _write_batch
from ml.joiner.source import JoinerSource
from ml.joiner.status import StreamStatus
from tests.helpers.joined_logs import feed

PARTITIONS = 2
START = 1_772_323_200_000
"""2026-03-01 in milliseconds."""


class _Map:
    def __init__(self) -> None:
        self.values: dict[Any, Any] = {}

    def updateValue(self, key: Any, value: Any) -> None:
        self.values[key] = value

    def getValue(self, key: Any) -> Any:
        return self.values.get(key)

    def removeKey(self, key: Any) -> None:
        self.values.pop(key, None)


class _Value:
    def __init__(self) -> None:
        self.value: Any = None

    def exists(self) -> bool:
        return self.value is not None

    def get(self) -> Any:
        return self.value

    def update(self, value: Any) -> None:
        self.value = value


class _Handle:
    def __init__(self) -> None:
        self.map, self.value = _Map(), _Value()

    def getMapState(self, *_: Any) -> _Map:
        return self.map

    def getValueState(self, *_: Any) -> _Value:
        return self.value


class _Frame:
    def __init__(self, rows: list[Row]) -> None:
        self.batch = pa.RecordBatch.from_pylist([row.asDict() for row in rows])

    def mapInArrow(self, function: Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]], _: str) -> _Frame:
        self.done = list(function(iter([self.batch])))
        return self

    def collect(self) -> list[Row]:
        return [Row(**row) for batch in self.done for row in batch.to_pylist()]


@dataclass
class StreamRun:
    """A live join of the dataset `feed` whose batches run when a test says so.

    Attributes:
        root: Folder of the stream.
        spec: The dataset.
        settings: Settings of `Joining`.
    """

    root: Path
    spec: DatasetSpec = field(default_factory=feed)
    settings: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.batch, self.offset = 0, None
        self.handles = [_Handle() for _ in range(PARTITIONS)]
        for side in ("impressions", "actions"):
            (self.root / side).mkdir(parents=True, exist_ok=True)
        self.restart()

    def restart(self, **settings: Any) -> None:
        """Starts the driver again, with the offset and the state of the checkpoint."""
        self.settings |= settings
        self.joining = Joining(self.spec, UPath(self.root), **self.settings)
        assert self.spec.actions and self.spec.actions_log
        source = JoinerSource({"input": self.joining.source(self.joining.layout(PARTITIONS)).to_json()})
        self.reader: Any = source.streamReader(None)

    def step(self, repeat: bool = False) -> bool:
        """Runs a batch; returns whether there was one. With `repeat`, the batch runs twice, as after a crash."""
        start = self.offset or self.reader.initialOffset()
        end = json.loads(json.dumps(self.reader.latestOffset(start, None)))
        if end == start:
            return False
        for attempt in range(1 + repeat):
            handles = copy.deepcopy(self.handles) if attempt < repeat else self.handles
            self._run(start, end, handles)
        self.offset, self.batch = end, self.batch + 1
        return True

    def _run(self, start: Any, end: Any, handles: list[_Handle]) -> None:
        assert self.spec.actions and self.spec.actions_log
        layout = self.joining.layout(PARTITIONS)
        read = [
            row for part in self.reader.partitions(start, end) for found in self.reader.read(part) for row in found.to_pylist()
        ]
        random.Random(len(read)).shuffle(read)  # as a shuffle of Spark does
        out = []
        for n, handle in enumerate(handles):
            processor = JoinProcessor(self.spec.actions, (self.spec.log, self.spec.actions_log), layout)
            processor.init(handle)  # type: ignore[arg-type]
            rows = [Row(**row) for row in read if row["part"] == n]
            out += list(processor.handleInputRows((n,), iter(rows), None))  # type: ignore[arg-type]
        _write_batch(self.joining, None, _Frame(out), self.batch)  # type: ignore[arg-type]

    def run(self) -> StreamStatus:
        """Runs batches until there is none, and returns the last status."""
        while self.step():
            pass
        return self.status

    def end(self) -> StreamStatus:
        """Runs the rest of the stream, whose end writes the last examples too."""
        self.run()
        self.restart(ends=True)
        return self.run()

    @property
    def status(self) -> StreamStatus:
        found = StreamStatus.read(self.joining.folder)
        assert found
        return found

    def examples(self) -> list[dict[str, Any]]:
        """Returns the examples that were written, in order."""
        return self.rows("examples")

    def rows(self, folder: str) -> list[dict[str, Any]]:
        """Returns the rows of all Parquet files below a folder of the stream."""
        return [row for path in sorted((self.root / folder).rglob("*.parquet")) for row in pq.read_table(path).to_pylist()]

    def put(self, name: str, *lines: dict[str, Any] | str | bytes) -> Path:
        """Writes a file, such as `actions/0001.jsonl`, from rows and raw lines."""
        path = self.root / name
        texts = [json.dumps(line) if isinstance(line, dict) else line for line in lines]
        path.write_bytes(b"".join((text.encode() if isinstance(text, str) else text) + b"\n" for text in texts))
        return path


def written_files(root: Path) -> dict[str, bytes]:
    """Returns the files that a join has written, by their names without the time of the stream's start."""
    folders = [root / name for name in ("examples", "unmatched", "late", "quarantine")]
    files = (path for folder in folders for path in sorted(folder.rglob("*")) if path.is_file())
    started = json.loads((root / "joiner" / "layout.json").read_text())["started"]
    return {str(path.relative_to(root)).replace(f"{started}-", ""): path.read_bytes() for path in files}


def shown(request: str | None, minute: float, **changes: Any) -> dict[str, Any]:
    """An impression, some minutes after `START`."""
    return {"shown_at": START + round(minute * 60_000), "request": request, "item": 1, "user": 7, "price": 2.5} | changes


def click(request: str | None, minute: float, **changes: Any) -> dict[str, Any]:
    """A click, some minutes after `START`."""
    return {"at": START + round(minute * 60_000), "request": request, "item": 1, "kind": "click"} | changes
