"""The processes of a loop, in the order in which they start, and when they are ready."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import click

from ml.days import MICROSECONDS_PER_SECOND
from ml.loop.settings import CLOCK, DAILY, DATASET, ONLINE
from ml.serving.clock import Clock
from orchestration.loop.folders import Folders
from orchestration.loop.processes import Process, Watcher
from orchestration.serve import WAITING

START_SECONDS = 300.0
"""Longest wait for a process to be ready."""
WATCH_SECONDS = 0.3


class NotReady(RuntimeError):
    """A process was not ready in time; its log says why."""


def reserved_port() -> socket.socket:
    """Bind a socket to a free port of loopback, which the system gives to no other process until the socket is closed.

    Servers can listen on the port, one after the other: they set `SO_REUSEADDR`, and this socket does not listen.
    """
    held = socket.socket()
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    held.bind(("127.0.0.1", 0))
    return held


class Loop:
    """The processes of a loop.

    Args:
        folders: The folders, which are prepared.
        stop: Ends the loop when it is set.
    """

    def __init__(self, folders: Folders, stop: threading.Event) -> None:
        self.folders, self.settings, self._stop = folders, folders.settings, stop
        self._reserved = [reserved_port() for _ in self.settings.arms]  # also while a service is started again
        self.ports = [held.getsockname()[1] for held in self._reserved]
        self.watcher = Watcher(folders.run / "processes.json")
        self.clock = Clock()

    def start(self) -> None:
        """Start all processes, and let simulated time begin when they are ready.

        Raises:
            NotReady: A process was not ready in time.
        """
        run, settings = self.folders.run, self.settings
        of_arms = dict(zip(settings.arms, self.ports, strict=True))
        (run / "services.json").write_text(json.dumps({arm: f"http://127.0.0.1:{port}" for arm, port in of_arms.items()}))
        self.watcher.start(
            self._process("join", ONLINE, "orchestration.join", DATASET, EVERGREEN_SPARK_MASTER="local[1]"),
            self._process("train", ONLINE, "orchestration.online", DATASET),
            *(
                self._process(f"serve {arm}", arm, "orchestration.serve", DATASET, *self._service_options(port))
                for arm, port in of_arms.items()
            ),
        )
        if DAILY in settings.arms:
            retrain = ("orchestration.loop.daily", str(run))
            self.watcher.start(self._process("retrain", DAILY, *retrain, EVERGREEN_SPARK_MASTER="none"))
        visit = ("orchestration.loop.visitors", str(run), "--ports", ",".join(map(str, self.ports)))
        self.watcher.start(self._process("visitors", ONLINE, *visit))
        self._await("join", lambda: (run / ONLINE / "stream" / DATASET / "joiner" / "status.json").exists())
        self._await("train", lambda: self._has_said("train", "waiting for files"))
        for arm in settings.arms:
            self._await(f"serve {arm}", lambda arm=arm: self._has_said(f"serve {arm}", WAITING))
        self._begin_time()

    def _service_options(self, port: int) -> tuple[str, ...]:
        return "--port", str(port), "--clock", str(self.folders.run / CLOCK)

    def _begin_time(self) -> None:
        """Let simulated time begin, for all processes at once."""
        file, settings = self.folders.run / CLOCK, self.settings
        aside = file.with_name(f".{file.name}")
        aside.write_text(f"{settings.start / MICROSECONDS_PER_SECOND},{time.time()},{settings.pace}")
        aside.rename(file)
        self.clock = Clock.wait_for(file)

    def end(self) -> None:
        """End the processes, and release their ports."""
        self.watcher.stop()
        for held in self._reserved:
            held.close()

    def wait(self, seconds: float = WATCH_SECONDS) -> bool:
        """Watch the processes. Returns whether the loop is over."""
        self.watcher.watch()
        end = self.settings.start + self.settings.days * 86_400 * MICROSECONDS_PER_SECOND
        return self._stop.wait(seconds) or (bool(self.clock.began) and self.clock.now() >= end)

    def _log(self, name: str) -> Path:
        return self.folders.run / "logs" / f"{name.replace(' ', '-')}.log"

    def _process(self, name: str, arm: str, *module: str, **environment: str) -> Process:
        return Process(name, module, self.folders.environment(arm) | environment, self._log(name))

    def _has_said(self, name: str, text: str) -> bool:
        return text in self._log(name).read_text()

    def _await(self, name: str, is_ready: Callable[[], bool]) -> None:
        until = time.monotonic() + START_SECONDS
        while not is_ready():
            if time.monotonic() > until:
                raise NotReady(f"{name} was not ready after {START_SECONDS:.0f} s; see {self.folders.run / 'logs'}")
            if self.wait():
                raise click.Abort
