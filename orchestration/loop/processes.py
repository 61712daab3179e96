"""Processes that are watched: one that ends is started again, whatever ended it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

LONG_SECONDS = 20.0
"""A process that has run for longer is started again at once."""
MOST_WAIT = 10.0
GRACE_SECONDS = 30.0


@dataclass
class Process:
    """A module that runs in a process of its own.

    Attributes:
        name: Its name.
        module: The module, and its arguments.
        environment: Its environment variables.
        log: File to which its output is appended.
        starts: How often it was started.
        began: When it was started last, by `time.monotonic`.
    """

    name: str
    module: Sequence[str]
    environment: Mapping[str, str]
    log: Path
    starts: int = 0
    began: float = 0.0
    _running: subprocess.Popen[bytes] | None = field(default=None, repr=False)
    _due: float = 0.0
    _short_runs: int = 0

    @property
    def pid(self) -> int | None:
        """Process id; None if it does not run."""
        return None if self._running is None else self._running.pid

    def start(self) -> None:
        """Start it in a process group of its own, which includes what it starts itself."""
        self.log.touch(mode=0o600)  # the log of a service has its token
        with self.log.open("ab") as output:
            self._running = subprocess.Popen(
                [sys.executable, "-m", *self.module],
                env=dict(self.environment),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.starts, self.began = self.starts + 1, time.monotonic()

    def watch(self) -> bool:
        """Start it again if it has ended; after repeated failures with a pause. Returns whether it was started."""
        now = time.monotonic()
        if self._running is not None:
            if self._running.poll() is None:
                return False
            self._kill_group()
            self._short_runs = 0 if now - self.began > LONG_SECONDS else self._short_runs + 1
            self._due = now + min(2.0 ** (self._short_runs - 1), MOST_WAIT) if self._short_runs > 1 else now
            self._running = None
        if now < self._due:
            return False
        self.start()
        return True

    def end(self, until: float) -> None:
        """Wait until a process that was interrupted has ended, at most until a time of `time.monotonic`; then kill it."""
        if self._running is None:
            return
        with suppress(subprocess.TimeoutExpired):
            self._running.wait(max(until - time.monotonic(), 0.0))
        self._kill_group()
        self._running.wait()
        self._running = None

    def interrupt(self) -> None:
        """Ask it to end, as Ctrl-C does."""
        if self._running is not None and self._running.poll() is None:
            self._running.send_signal(signal.SIGINT)

    def _kill_group(self) -> None:
        assert self._running is not None
        with suppress(ProcessLookupError):
            os.killpg(self._running.pid, signal.SIGKILL)  # such as Spark's Java process


class Watcher:
    """Watches processes, and writes which there are to a file.

    Args:
        file: JSON: for each name `pid` and `starts`.
    """

    def __init__(self, file: Path) -> None:
        self.processes: list[Process] = []
        self._file = file

    @property
    def restarts(self) -> dict[str, int]:
        """How often each process was started again, by name."""
        return {process.name: process.starts - 1 for process in self.processes}

    def start(self, *processes: Process) -> None:
        """Start processes and watch them from now on."""
        for process in processes:
            process.start()
            self.processes.append(process)
        self._write()

    def watch(self) -> None:
        """Start each process again that has ended."""
        if any([process.watch() for process in self.processes]):
            self._write()

    def stop(self) -> None:
        """End all processes, in the reverse order of their start."""
        for process in reversed(self.processes):
            process.interrupt()
        until = time.monotonic() + GRACE_SECONDS
        for process in reversed(self.processes):
            process.end(until)

    def _write(self) -> None:
        aside = self._file.with_name(f".{self._file.name}")
        aside.write_text(json.dumps({of.name: {"pid": of.pid, "starts": of.starts} for of in self.processes}))
        aside.rename(self._file)
