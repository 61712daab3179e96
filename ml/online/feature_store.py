"""Updates the online store of a dataset's feature tables: applies rows that arrive in a stream folder, each exactly once.

The store has the position in the stream, so a follower that was killed continues where it stopped.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field

from ml.features.online_store.meta import Meta
from ml.features.online_store.writer import StoreWriter
from ml.online.stream import Arrived, Position, StreamFolder

FOLLOWER = "feature-tables"
_log = logging.getLogger("evergreen")


@dataclass(frozen=True)
class AppliedPart:
    """A part of the stream that was applied.

    Attributes:
        rows: Number of rows.
        state: State of the store after it.
        quarantined: Number of rows that were quarantined since the part before, by reason.
    """

    rows: int
    state: Meta
    quarantined: dict[str, int] = field(default_factory=dict)


def follow_features(
    writer: StoreWriter,
    stream: StreamFolder,
    wait: Callable[[float], bool],
    on_message: Callable[[str], None] = _log.info,
    follower: str = FOLLOWER,
) -> Iterator[AppliedPart]:
    """Apply what arrives after the store's position, and wait for more until `wait` returns True.

    A rebuild first applies everything that is in the folder. Readers then use the new generation.

    Args:
        writer: The open writer.
        stream: The stream of the dataset.
        wait: Waits some seconds and returns whether to stop, as `threading.Event.wait` does.
        on_message: Receives messages, such as that there is nothing to read.
        follower: Name under which the files that were passed are recorded. Each stream folder has one of its own.

    Yields:
        Each part, after its transaction.

    Raises:
        LostFile: The position is inside a file that is no longer in the folder.
    """
    passed = stream.passed(_position(writer.meta), follower)
    if writer.is_rebuild:
        for part in stream.read(_position(writer.meta)):
            passed.add(part.position.file)
            yield _apply(writer, part)
            if wait(0.0):
                return
        writer.publish()
        on_message(f"{writer.folder}: rebuilt from {writer.meta.rows:,} rows")
    for part in stream.follow(_position(writer.meta), wait, on_message, passed):
        yield _apply(writer, part)
        if wait(0.0):
            return


def _apply(writer: StoreWriter, part: Arrived) -> AppliedPart:
    return AppliedPart(len(part.rows), writer.apply(part.rows, asdict(part.position)), part.quarantined)


def _position(meta: Meta) -> Position:
    return Position() if meta.position is None else Position(**meta.position)
