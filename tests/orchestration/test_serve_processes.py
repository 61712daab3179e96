"""`make serve PROCESSES=2`: two processes answer as one service, and what a kill of a worker or of its keeper leaves."""

from __future__ import annotations

import itertools
import random
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from ml.artifacts.bundle import write_inputs
from ml.recipes.online import SyncRecipe
from ml.recipes.recipe import recipe_of
from ml.schema import FeatureSchema
from ml.serving.processes.counters import ROOT
from ml.sync.folder import SyncFolder
from ml.sync.publisher import Publisher
from ml.training.passes import train_pass
from ml.training.state import TrainState, new_state
from tests.helpers.kiosk_lake import END, spec_of
from tests.helpers.training_days import make_batches
from tests.helpers.waiting import until
from tests.orchestration.test_serve import home, running, stored

__all__ = ["home"]  # a fixture
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
SECOND = 1_000_000


class Trainer:
    """Online training of the kiosk's DLRM, which publishes versions with events after the last export."""

    def __init__(self, folder: Path) -> None:
        spec = self._spec = spec_of()
        self.state: TrainState = new_state(recipe_of(spec, "dlrm"), FeatureSchema.of(spec))
        self.folder = SyncFolder.at(folder)
        recipe = SyncRecipe.model_validate({"rows": "int8"})
        self.publisher = Publisher(
            self.folder, self.state, self._inputs, dataset=spec.name, model="dlrm", run_id="r", recipe=recipe
        )
        self.publisher.snapshot(event_to=END + SECOND)

    def publish(self) -> None:
        """Train, and publish a delta."""
        version = self.publisher.version + 1
        self.state.model.train()
        self.state.begin_pass()
        train_pass(self.state, list(make_batches(self.state.schema, 2, seed=version)), total_steps=2)
        self.state.model.eval()
        self.publisher.publish((END + version * SECOND, END + (version + 1) * SECOND))

    def _inputs(self, folder: Any) -> dict[str, str]:
        return dict(write_inputs(folder, self._spec, {}))


def workers(keeper: int) -> list[psutil.Process]:
    found = list[psutil.Process]()
    for child in psutil.Process(keeper).children():
        with suppress(psutil.NoSuchProcess):  # killed just now
            if "--multiprocessing-fork" in child.cmdline():
                found.append(child)
    return found


def counter_folders(home: Path) -> list[Path]:
    place = (home / "stream" / "kiosk").stat()
    return list(ROOT.glob(f"evergreen-counters-{place.st_dev:x}-{place.st_ino:x}"))


@contextmanager
def only(answers: psutil.Process, client: httpx.Client, among: list[psutil.Process]) -> Iterator[httpx.Client]:
    """A client whose connection one worker accepts, as the others are stopped meanwhile."""
    others = [worker for worker in among if worker.pid != answers.pid]
    for worker in others:
        worker.send_signal(signal.SIGSTOP)
    try:
        with httpx.Client(base_url=client.base_url, headers=client.headers, timeout=300) as own:  # it may still start
            assert own.get("/health").status_code == 200
            for worker in others:
                worker.send_signal(signal.SIGCONT)
            yield own
    finally:
        for worker in others:
            worker.send_signal(signal.SIGCONT)


def events(item: int) -> dict[str, Any]:
    return {"examples": [{"user": 3, "item": item}]}


def scores(client: httpx.Client) -> dict[int, float]:
    """Scores for a user without new events, of items that are not live: counts of live ones change every five seconds."""
    found = client.post("/rank", json={"user": 5, "candidates": list(range(1000, 1040))}).json()["items"]
    return {one["item"]: one["score"] for one in found}


def context(client: httpx.Client) -> list[int]:
    return client.post("/recommend", json={"user": 3, "k": 4}).json()["context"]


def ranking(client: httpx.Client) -> dict[str, Any]:
    return client.get("/version").json()["ranking"]


def test_two_processes_answer_as_one_service(home: Path) -> None:
    trainer = Trainer(home / "sync" / "kiosk" / "dlrm")
    with running(home, "--processes", "2") as (process, client):
        both = workers(process.pid)
        assert len(both) == 2
        with only(both[0], client, both) as first, only(both[1], client, both) as second:
            assert ranking(first) == ranking(second) | {"lag_seconds": ranking(first)["lag_seconds"]}
            assert (ranking(first)["source"], ranking(first)["version"]) == ("sync", "0")
            before = scores(first)
            assert scores(second) == before and len(set(before.values())) > 9
            for version in ("1", "2"):
                trainer.publish()
                until(lambda version=version: {ranking(one)["version"] for one in (first, second)} == {version})
                assert scores(first) == scores(second) != before
                before = scores(first)
            assert len(trainer.folder.acknowledgements()) == 1, "one receiver for both"

            for item, one, other in ((7, first, second), (9, second, first), (11, first, second)):
                assert one.post("/events", json=events(item)).status_code == 202
                assert context(other)[0] == item and context(one)[0] == item
            metrics = [one.get("/metrics").text for one in (first, second)]
            assert all('evergreen_events_total{log="examples"} 3.0' in text for text in metrics), "the sum of both"

        both[0].kill()
        for _ in range(10):  # while the worker starts again
            assert len(client.post("/recommend", json={"user": 3, "k": 4}).json()["items"]) == 4
            assert client.post("/events", json=events(13)).status_code == 202
        until(lambda: len(workers(process.pid)) == 2)
        [again] = [worker for worker in workers(process.pid) if worker.pid != both[1].pid]
        with only(again, client, workers(process.pid)) as third:
            assert context(third)[:13] == [*[13] * 10, 11, 9, 7], "events from before its start"
            assert third.post("/events", json=events(15)).status_code == 202
            assert scores(third) == before
            trainer.publish()
            until(lambda: ranking(third)["version"] == "3")
            assert 'evergreen_events_total{log="examples"} 14.0' in third.get("/metrics").text, "those of the killed one, too"
        [counters] = counter_folders(home)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=240) == 0
        assert not any(worker.is_running() for worker in [both[1], again]) and not counters.exists()
    assert sorted(stored(home)) == sorted([7, 9, 11, *[13] * 10, 15])


def test_a_killed_keeper_leaves_no_worker_and_no_event_behind(home: Path) -> None:
    sent = list(range(6))
    with running(home, "--processes", "2") as (process, client):
        both = workers(process.pid)
        for item in sent:
            assert client.post("/events", json=events(item)).status_code == 202
        process.kill()
        process.wait()
        until(lambda: not any(worker.is_running() for worker in both))
    with running(home) as (process, client):
        assert sorted(stored(home)) == sent
        # With each start, the clock of an ended log begins at its end again, where stored events are still in the future.
        until(lambda: set(sent) <= set(context(client)))


class Posting:
    """Posts events in threads until the end of the block, each with an item of its own.

    Attributes:
        acknowledged: Items of the events that were acknowledged.
    """

    def __init__(self, client: httpx.Client, first: int) -> None:
        self.acknowledged: list[int] = []
        self._client, self._items, self._stop = client, itertools.count(first), threading.Event()
        self._threads = [threading.Thread(target=self._post, daemon=True) for _ in range(4)]

    def __enter__(self) -> Posting:
        for thread in self._threads:
            thread.start()
        self.more()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def more(self, count: int = 40) -> None:
        """Wait until further events have been acknowledged."""
        enough = len(self.acknowledged) + count
        until(lambda: len(self.acknowledged) >= enough)

    def _post(self) -> None:
        while not self._stop.is_set():
            with (
                suppress(httpx.TransportError),
                httpx.Client(base_url=self._client.base_url, headers=self._client.headers) as own,
            ):
                while not self._stop.is_set():
                    item = next(self._items)  # not sent again if there is no response: it may have been stored
                    if own.post("/events", json=events(item)).status_code == 202:
                        self.acknowledged.append(item)


def test_events_that_are_posted_while_processes_are_killed_are_stored_once(home: Path) -> None:
    acknowledged = list[int]()
    with running(home, "--processes", "2") as (process, client), Posting(client, 0) as posting:
        for _ in range(2):
            random.choice(workers(process.pid)).kill()
            posting.more()
            until(lambda: len(workers(process.pid)) == 2)
            posting.more()
        process.kill()
    acknowledged += posting.acknowledged
    with running(home, "--processes", "2") as (process, client), Posting(client, 10**6) as posting:
        for one in [*workers(process.pid), process]:
            one.kill()
    acknowledged += posting.acknowledged
    with running(home) as (process, client), Posting(client, 2 * 10**6) as posting:
        process.kill()
    acknowledged += posting.acknowledged
    with running(home):
        pass
    times = Counter(stored(home))
    assert set(times.values()) == {1} and set(acknowledged) <= set(times) and len(acknowledged) >= 280
