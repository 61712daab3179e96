"""The users of one arm: they ask for recommendations over HTTP, see them, and click with delays.

Impressions and clicks are reported to the service that stores events. What it does not acknowledge is sent again, so it can be
stored twice; the joiner counts each key once.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ml.loop.client import ServiceClient, Unavailable
from ml.loop.entry import ITEM, REQUEST, USER
from ml.loop.population import Population, user_id
from ml.loop.records import ACKNOWLEDGED, REQUESTS, SERVED, Recorder
from ml.loop.settings import ARMS, DELAY_MINUTES, Settings
from ml.serving.clock import Clock

TICK_SECONDS = 0.5
"""Time between two reports of events."""
VERSION_SECONDS = 0.2
MOST_UNSENT = 5_000
"""Events that wait to be sent; further visits are left out until the service stores events again."""
MOST_SENT = 2_000
_log = logging.getLogger("evergreen")


class Visitors:
    """The users of one arm.

    Args:
        population: Everyone.
        arm: The arm.
        clock: Simulated time.
        service: The service of the arm.
        events: The service that stores events.
        folder: Where records are written.
    """

    def __init__(
        self, population: Population, arm: str, clock: Clock, service: ServiceClient, events: ServiceClient, folder: Path
    ) -> None:
        self._population, self._clock, self._service, self._events = population, clock, service, events
        self._settings, self._users = population.settings, population.users_of(arm)
        self._requests, self._acknowledged = Recorder(folder, f"{REQUESTS}-{arm}"), Recorder(folder, f"{ACKNOWLEDGED}-{arm}")
        self._rng = np.random.default_rng([self._settings.seed, ARMS.index(arm), time.time_ns()])
        self._place = {item: at for at, item in enumerate(population.item_ids.tolist())}
        self._shown: list[tuple[dict[str, Any], float | None]] = []  # impressions, and the delays of their clicks in seconds
        self._acting: list[tuple[float, int, dict[str, Any]]] = []  # clicks by the time at which they happen
        self._number = itertools.count()
        self._is_failing = False

    def follow(self, stop: threading.Event) -> None:
        """Visit until an event is set."""
        due = time.monotonic()
        while not stop.wait(max(due - time.monotonic(), 0.0)):
            due = max(due + TICK_SECONDS, time.monotonic() - TICK_SECONDS)
            self.tick()

    def tick(self) -> None:
        """Make the visits of a tick, and report impressions and clicks."""
        count = int(self._rng.poisson(self._settings.rate / len(self._settings.arms) * TICK_SECONDS))
        now = self._clock.now()
        rows, failed = [], 0
        if len(self._users) and count and len(self._shown) + len(self._acting) < MOST_UNSENT:
            for user, device in zip(*self._population.draw_visits(now, self._users, count, self._rng), strict=True):
                try:
                    rows.append(self._visit(int(user), int(device)))
                except Unavailable:
                    failed += 1
        if rows or failed:
            self._requests.write(failed=failed, rows=rows)
        try:
            self._report()
        except Unavailable as error:  # the next tick sends them again
            if not self._is_failing:
                _log.warning("events are not stored, and are sent again until they are: %s", error)
            self._is_failing = True
        else:
            self._is_failing = False

    def _visit(self, user: int, device: int) -> list[float]:
        """Ask for recommendations and see them. Returns the simulated time, the user, and chances of clicks."""
        context = self._population.context_of(user, device)
        asked = {"user": user_id(user), "context": context, "k": self._settings.shown, "exclude_seen": False}
        answer = self._service.post("/recommend", asked)
        now = self._clock.now()
        chances = self._population.click_chances(now, user, device)
        places = np.array([self._place[item["item"]] for item in answer["items"]], np.int64)
        clicked = self._rng.random(len(places)) < chances[places]
        for item, is_clicked in zip(answer["items"], clicked.tolist(), strict=True):
            row = {REQUEST: answer["request_id"], USER: user_id(user), **context, **item["columns"]}
            delay = self._rng.exponential(DELAY_MINUTES * 60 / self._settings.pace) if is_clicked else None
            self._shown.append((row, delay))
        best = np.sort(chances)[-self._settings.shown :]
        recommended = float(chances[places].sum()) / self._settings.shown  # a short list has nothing in its empty places
        return [now, user_id(user), recommended, float(best.mean()), float(chances.mean())]

    def _report(self) -> None:
        """Send the impressions, and the clicks that are due. A click comes after its impression is acknowledged."""
        while self._shown:
            sent, now = self._shown[:MOST_SENT], self._clock.now()
            self._events.post("/events", {"impressions": [row for row, _ in sent]})
            del self._shown[: len(sent)]
            keys = [[row[REQUEST], row[ITEM]] for row, _ in sent]
            self._acknowledged.write(time=now, impressions=keys)
            for (request, item), (_, delay) in zip(keys, sent, strict=True):
                if delay is not None:
                    happens = time.monotonic() + delay
                    heapq.heappush(self._acting, (happens, next(self._number), {REQUEST: request, ITEM: item}))
        due = [row for happens, _, row in self._acting if happens <= time.monotonic()][:MOST_SENT]
        if due:
            now = self._clock.now()
            self._events.post("/events", {"actions": due})
            for _ in due:
                heapq.heappop(self._acting)
            self._acknowledged.write(time=now, actions=[[row[REQUEST], row[ITEM]] for row in due])


def watch_versions(service: ServiceClient, folder: Path, stop: threading.Event) -> None:
    """Record each version of the ranking model that a service serves, until an event is set."""
    recorder, last = Recorder(folder, SERVED), None
    while not stop.wait(VERSION_SECONDS):
        try:
            ranking = service.get("/version")["ranking"]
        except Unavailable:
            continue
        served = ranking["source"], ranking["run_id"], ranking["version"], ranking["event_to"]
        if served != last:
            last = served
            recorder.write(source=served[0], version=served[2], event_to=served[3])


def simulate(settings: Settings, clock: Clock, ports: Mapping[str, int], home: Path, stop: threading.Event) -> None:
    """Let the users of all arms visit, each arm in a thread, until an event is set.

    Args:
        settings: The population.
        clock: Simulated time.
        ports: Port of the service of each arm. The first arm's service stores the events of all.
        home: Folder of the run: `records`, and for each arm `<arm>/serving-token`.
        stop: Ends the visits.

    Raises:
        Exception: What a thread raises, such as `ValueError` if a service refuses a request.
    """
    population, records = Population(settings), home / "records"
    first, failures = settings.arms[0], list[BaseException]()

    def client(arm: str) -> ServiceClient:
        return ServiceClient(ports[arm], home / arm / "serving-token")

    def work(target: Any, *arguments: Any) -> None:
        try:
            target(*arguments)
        except BaseException as error:
            failures.append(error)
            stop.set()

    visitors = [Visitors(population, arm, clock, client(arm), client(first), records) for arm in settings.arms]
    works = [(of.follow, stop) for of in visitors] + [(watch_versions, client(first), records, stop)]
    threads = [threading.Thread(target=work, args=arguments, daemon=True) for arguments in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
