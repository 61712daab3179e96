"""A writer of an online store in a process of its own, which is killed and started again, and a reader beside it.

python -m tests.helpers.store_process write EVENTS STORE PARTS KILLS SEED
python -m tests.helpers.store_process read STORE PARTS

The writer applies a file of events in parts; its position is the number of the next part. Imports are done once: each start
is a fork. The reader looks up all items again and again, until all parts are there. It exits with 1 if what it reads is not
the state between two transactions.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ml.catalog.feature_tables import FeatureTable
from ml.features.online_store.environment import NoStore
from ml.features.online_store.reader import StoreReader
from ml.features.online_store.writer import StoreWriter
from tests.helpers.store_tables import MINUTE, TABLES, plan_of

EVERYTHING = FeatureTable.model_validate(
    {"name": "everything", "entity": ["item"], "values": [{"name": "events", "count": {"hours": 2208}}]}
)
PLAN = plan_of([*TABLES, EVERYTHING])
AFTER = 31 * 60 * MINUTE  # all events are within 30 hours


def bounds(rows: int, parts: int) -> list[int]:
    return np.linspace(0, rows, parts + 1).astype(int).tolist()


def write(events: pa.Table, store: Path, parts: int, pause: float = 0.0) -> None:
    """Apply the parts after the store's position."""
    edges = bounds(len(events), parts)
    with StoreWriter(store, PLAN, history_hours=1000) as writer:
        for number in range((writer.meta.position or {"next": 0})["next"], parts):
            writer.apply(events.slice(edges[number], edges[number + 1] - edges[number]), {"next": number + 1})
            time.sleep(pause)


def write_with_kills(events: pa.Table, store: Path, parts: int, kills: int, seed: int) -> None:
    draw = random.Random(seed)
    for kill in range(kills + 1):
        child = os.fork()
        if not child:
            try:
                write(events, store, parts, pause=0.004)
            except BaseException as error:
                sys.stderr.write(f"{type(error).__name__}: {error}\n")
                os._exit(1)
            os._exit(0)
        if kill < kills:
            time.sleep(draw.uniform(0.0, 0.25))
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status) and os.waitstatus_to_exitcode(status):
            sys.exit("the writer failed")


def read(store: Path, parts: int) -> None:
    """Look up until all parts are there. The counts of all items are the number of rows that have an item."""
    items = pa.table({"item": pa.array(range(100), pa.int64()), "user": pa.array(["u0"] * 100)})
    reader, position, looked_up, states = None, 0, 0, set()
    while position < parts:
        try:
            reader = reader or StoreReader(store, PLAN)
        except NoStore:
            time.sleep(0.01)
            continue
        before = reader.meta
        events = sum(reader.lookup("everything", items, AFTER).columns["events"].to_pylist())
        after = reader.meta
        position = (after.position or {"next": 0})["next"]
        if before.parts == after.parts and events != before.rows:
            sys.exit(f"{events} events in a state with {before.rows} rows")
        if not before.rows <= events <= after.rows:
            sys.exit(f"{events} events between states with {before.rows} and {after.rows} rows")
        looked_up += 1
        states.add(before.parts)
    sys.stdout.write(f"{looked_up} {len(states)}")


def main() -> None:
    if sys.argv[1] == "read":
        read(Path(sys.argv[2]), int(sys.argv[3]))
    else:
        events = pq.read_table(sys.argv[2])
        write_with_kills(events, Path(sys.argv[3]), *map(int, sys.argv[4:7]))


if __name__ == "__main__":
    main()
