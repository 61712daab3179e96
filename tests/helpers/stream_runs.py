"""Runs a live join batch by batch without Spark: the source, the processor with its state in memory, and the writer."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from pyspark.sql import Row
from upath import UPath

from ml.catalog.spec import DatasetSpec
from ml.joiner.joining import Joining
from ml.joiner.processor import JoinProcessor
from ml.joiner.service import _write_batch
from ml.joiner.source import JoinerSource
from ml.joiner.spool import Spool
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


class Crash(Exception):
    """The driver ends while it waits for the tasks of a batch."""


class _Frame:
    """The rows of a batch, which are computed when they are collected."""

    def __init__(self, rows: Callable[[], list[Row]]) -> None:
        self.collect = rows


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
        self.batch, self.offset, self.draw = 0, None, random.Random(0)
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

    def step(self, repeat: bool = False, crash: bool = False) -> bool:
        """Runs a batch; returns whether there was one.

        Args:
            repeat: The batch runs twice, as after a crash before its commit.
            crash: The batch first runs until its tasks have written their files, and then as a whole.
        """
        start = self.offset or self.reader.initialOffset()
        end = json.loads(json.dumps(self.reader.latestOffset(start, None)))
        if end == start:
            return False
        if repeat:
            self._run(start, end, copy.deepcopy(self.handles))
        if crash:
            with suppress(Crash):
                self._run(start, end, copy.deepcopy(self.handles), crash=True)
        self._run(start, end, self.handles)
        self.offset, self.batch = end, self.batch + 1
        return True

    def _run(self, start: Any, end: Any, handles: list[_Handle], crash: bool = False) -> None:
        rules, layout = self.spec.actions, self.joining.layout(PARTITIONS)
        assert rules and self.spec.actions_log
        read = [
            row for part in self.reader.partitions(start, end) for found in self.reader.read(part) for row in found.to_pylist()
        ]
        self.draw.shuffle(read)  # as a shuffle of Spark does
        logs = (self.spec.log, self.spec.actions_log)
        spool = Spool(str(self.joining.spool), self.spec.examples_log)

        def joined() -> list[Row]:
            out = []
            for n, handle in enumerate(handles):
                processor = JoinProcessor(rules, logs, layout, spool)
                processor.init(handle)  # type: ignore[arg-type]
                rows = [Row(**row) for row in read if row["part"] == n]
                out += list(processor.handleInputRows((n,), iter(rows), None))  # type: ignore[arg-type]
            if crash:
                raise Crash
            return out

        _write_batch(self.joining, None, _Frame(joined), self.batch)  # type: ignore[arg-type]

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
