"""A worker: one of several processes that answer the requests of one service.

The process that has started it keeps the models up to date and stores events; see `ml.serving.processes.keeper`. A worker has
live items, feature tables and statistics of its own, which it makes from the same events.
"""

from __future__ import annotations

import gc
import pickle
import socket
import threading
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import pyarrow as pa
from upath import UPath

from ml.catalog.spec import DatasetSpec
from ml.embeddings.inference.shared.epochs import EpochsHandle, SharedEpochs
from ml.embeddings.inference.shared.pickling import Dump, RowsReader
from ml.embeddings.inference.shared.ranges import RangeHandle
from ml.http.limits import Limits
from ml.http.server import serve
from ml.lake import Lake
from ml.serving.app import create_serving_app
from ml.serving.clock import Clock
from ml.serving.models import NoModel
from ml.serving.pins import Pins
from ml.serving.processes.counters import count_together
from ml.serving.processes.event_feed import EventFeed
from ml.serving.processes.event_store import RemoteEvents
from ml.serving.processes.shared_models import AttachedModels
from ml.serving.start import start


@dataclass(frozen=True)
class Service:
    """What all workers of a service have in common.

    Attributes:
        spec: The dataset.
        lake: Root of the lake.
        stream: The dataset's folder of arriving events.
        sides: The joined columns of each side table.
        model: The model that ranks; None for the default.
        pins: The pins of the dataset.
        clock: The time of requests.
        token: Token that requests have to present; None for an open service.
        hosts: Host names under which the service is reached.
        limits: Limits of each worker.
        instance: The word in `/health` that tells the service from others.
    """

    spec: DatasetSpec
    lake: str
    stream: UPath
    sides: list[pa.Table]
    model: str | None
    pins: Pins
    clock: Clock
    token: str | None
    hosts: tuple[str, ...]
    limits: Limits
    instance: str


@dataclass(frozen=True)
class Shared:
    """What the workers of a service share: the `Service`, models, readers of rows and events, and the folder of counters."""

    service: Dump
    models: RangeHandle
    epochs: EpochsHandle
    feed: RangeHandle
    counters: Path


def work(given: bytes, listener: socket.socket, number: int, connection: Connection) -> None:
    """Answer requests until SIGTERM or SIGINT.

    Args:
        given: The pickled `Shared`.
        listener: The listening socket.
        number: Number of this worker, from 0 on.
        connection: To the process that stores events.
    """
    # Only the parent can write it: it comes with the arguments of this process, through a pipe that it has inherited.
    shared: Shared = pickle.loads(given)  # noqa: S301
    epochs = SharedEpochs.attach(shared.epochs, process=number + 1)
    service: Service = RowsReader(epochs).load(shared.service)[0]
    count_together(shared.counters, number)
    models = AttachedModels(shared.models, epochs)
    events = RemoteEvents(service.spec, connection, EventFeed.attach(shared.feed, number))
    try:
        engine = start(
            service.spec,
            Lake.at(service.lake),
            service.stream,
            service.sides,
            model=service.model,
            pins=service.pins,
            clock=service.clock,
            models=models.by_name,
            journal=events,
        )
    except (NoModel, OSError, ValueError) as error:
        events.ask("failed", str(error))
        raise SystemExit(1) from error
    stop = threading.Event()
    following = threading.Thread(target=models.follow, args=(stop,), name="models", daemon=True)
    following.start()
    app = create_serving_app(engine, service.token, service.hosts, service.limits, shared.counters, service.instance)
    events.ask("ready", engine.recommender.context_columns if engine.recommender else [])
    gc.collect()
    gc.freeze()  # see orchestration/serve.py
    serve(app, listener)
    stop.set()
    following.join()
