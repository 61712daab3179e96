"""The settings of a live join, and the layout of its state, which the first start of the stream decides."""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import dataclass
from datetime import UTC, datetime

from upath import UPath

from ml.catalog.spec import DatasetSpec
from ml.joiner.blocks import Layout
from ml.joiner.source import StreamInput
from ml.joiner.status import joiner_folder

BATCH_BYTES = 64 << 20
_STATE_FORMAT = 2  # increase it when a checkpoint of an earlier version can no longer be read
_LAYOUT = "layout.json"
_log = logging.getLogger("evergreen")


class ChangedEntry(ValueError):
    """The state of a stream was made under another catalog entry."""


@dataclass(frozen=True)
class Joining:
    """The settings of a live join.

    Attributes:
        spec: A dataset with `actions`.
        root: `<home>/stream/<dataset>`.
        ends: Whether the stream ends with the files that are there. The last examples are then written too, although events of
            their wait could still arrive.
        batch_bytes: Approximate bytes that a batch reads from each of the two folders.
        state_megabytes: Memory of all RocksDB stores of a process; the rest of the state is on disk.
        every_seconds: Shortest time between two batches.
    """

    spec: DatasetSpec
    root: UPath
    ends: bool = False
    batch_bytes: int = BATCH_BYTES
    state_megabytes: int = 256
    every_seconds: float = 1.0

    @property
    def folder(self) -> UPath:
        """Folder of the checkpoint and the status."""
        return joiner_folder(self.root)

    @property
    def spool(self) -> UPath:
        """Folder of the files that tasks write during a batch."""
        return self.folder / "spool"

    def source(self, layout: Layout) -> StreamInput:
        """Returns the settings of the source."""
        assert self.spec.actions and self.spec.actions_log
        logs = (self.spec.log, self.spec.actions_log)
        return StreamInput(str(self.root), logs, self.spec.actions.key, layout, self.batch_bytes, self.ends)

    def file_prefix(self, batch: int) -> str:
        """Returns the beginning of the names of a batch's files: the first start of the stream, and the number of the batch."""
        # Streams that were started when names did not have the time of the start keep such names.
        started = json.loads((self.folder / _LAYOUT).read_text()).get("started")
        return f"{started}-{batch:012d}" if started else f"{batch:012d}"

    def layout(self, partitions: int) -> Layout:
        """Returns how the state is divided. The first start of the stream decides it.

        Args:
            partitions: Number of partitions of the keys if this is the first start.

        Raises:
            ChangedEntry: The catalog entry has changed since then, or the state has another format.
        """
        return self._load_layout() if (self.folder / _LAYOUT).exists() else self._create_layout(partitions)

    def _create_layout(self, partitions: int) -> Layout:
        """Stores and returns the layout of a new stream."""
        assert self.spec.actions
        layout = Layout.of(self.spec.actions, partitions)
        self.folder.mkdir(parents=True, exist_ok=True)
        made = {"format": _STATE_FORMAT, "entry": self._identity, "partitions": layout.partitions, "bucket": layout.bucket}
        earlier = max((file.name for file in (self.root / "examples").glob("*.parquet")), default="")
        started = f"{datetime.now(UTC):%Y%m%dT%H%M%S%f}"
        # Followers read only names after those that they have read, even if a clock has been set back.
        made |= {"started": started if started > earlier else f"{earlier.partition('-')[0]}0"}
        if earlier:
            _log.warning("%s/examples has examples of an earlier start; all files of both logs are joined again", self.root)
        staged = self.folder / f".{_LAYOUT}"
        staged.write_text(json.dumps(made))
        staged.rename(self.folder / _LAYOUT)
        return layout

    def _load_layout(self) -> Layout:
        """Returns the layout that the first start stored. Raises `ChangedEntry`."""
        found = json.loads((self.folder / _LAYOUT).read_text())
        way_out = (
            f"move files that were joined (read.jsonl lists them) out of {self.root}/impressions and {self.root}/actions, or "
            f"they are joined again; then delete {self.folder}, and start the stream again"
        )
        if found.get("format") != _STATE_FORMAT:
            raise ChangedEntry(f"{self.folder}: the state was written by another version of Evergreen; {way_out}")
        if found["entry"] != self._identity:
            raise ChangedEntry(
                f"{self.folder}: the state belongs to another version of the catalog entry {self.spec.name}. Restore the entry "
                f"as it was; or {way_out}"
            )
        return Layout(found["partitions"], found["bucket"])

    @property
    def _identity(self) -> str:
        """A hash of the parts of the catalog entry on which the state depends."""
        assert self.spec.actions
        rules = f"{self.spec.examples_log.fingerprint} {self.spec.actions.lateness}"
        return hashlib.sha256(rules.encode()).hexdigest()[:16]
