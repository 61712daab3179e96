"""Two-stage requests with 500 candidates to the service, from a second process on loopback, with and without deltas.

The service runs in a process of its own with one computing thread, on Globo's demo in the Evergreen home (`make demo
DATASET=globo LOGS=<folder>`), and requests are those of its users. The saturation rate is that of four connections that send
without a pause. Latencies are measured at half of it, from the moment at which a request is due. The baseline is `/health`, a
route that does nothing, at the same rate. Then a third process publishes a delta of the ranking model each second, which the
service applies, and the latencies are measured again. The deltas are those of real training, recorded before.

`EVERGREEN_BENCH_SECONDS` sets the length of each measurement, by default 20; 100,000 requests take about 14 minutes.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil

from benchmarks.real_logs import NoRealLogs
from benchmarks.result import Result
from ml.catalog.load import load_catalog
from ml.lake import Lake

DATASET, PORT = "globo", 18715
SECONDS, CONNECTIONS, WIDTH = float(os.environ.get("EVERGREEN_BENCH_SECONDS") or 20), 4, 32
QUANTILES = ("0.5", "0.99", "0.999")
DELTA_ROWS = 2_000


@dataclass
class Service:
    """A running service."""

    url: str
    token: str
    process: psutil.Process

    def load(self, route: str, seconds: float, rate: float, connections: int, bodies: str) -> dict[str, Any]:
        """Send requests; see `benchmarks._load`. Adds the CPU seconds of the service per request."""
        command, environment = [sys.executable, "-m", "benchmarks._load"], os.environ | {"EVERGREEN_LOAD_TOKEN": self.token}
        before = self.cpu_seconds
        command += map(str, (self.url + route, seconds, rate, connections, bodies))
        done = subprocess.run(command, capture_output=True, check=True, env=environment)
        found = json.loads(done.stdout)
        return found | {"cpu": (self.cpu_seconds - before) / found["requests"]}

    @property
    def processes(self) -> list[psutil.Process]:
        """The process that was started, and those that answer its requests, if it has started any."""
        return [self.process, *(one for one in self.process.children() if "--multiprocessing-fork" in one.cmdline())]

    @property
    def cpu_seconds(self) -> float:
        """CPU seconds of all processes."""
        return sum(sum(process.cpu_times()[:2]) for process in self.processes)

    def get(self, route: str) -> Any:
        """Return the answer of a route."""
        headers = {"Authorization": f"Bearer {self.token}"}
        return httpx.get(self.url + route, headers=headers, timeout=30).raise_for_status().json()


def run() -> list[Result]:
    home = Path(os.environ.get("EVERGREEN_HOME") or ".evergreen").absolute()
    spec = load_catalog()[DATASET]
    if not Lake.at(home).days(f"exported_models/{spec.primary}", DATASET):
        raise NoRealLogs(f"no export of {DATASET} in {home}; run `make demo DATASET={DATASET} LOGS=<folder>` first")
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {"EVERGREEN_SYNC": f"{folder}/sync"}
        bodies = Path(folder) / "bodies.jsonl"
        with running_service(home, PORT, environment) as service:
            users = service.get("/users")["users"]
            bodies.write_text("\n".join(json.dumps({"user": user, "k": 10}) for user in users))
            return _measured(service, str(bodies), environment)


def _measured(service: Service, bodies: str, environment: Mapping[str, str]) -> list[Result]:
    service.load("/recommend", 3.0, 0.0, CONNECTIONS, bodies)  # warm
    closed = service.load("/recommend", 10.0, 0.0, CONNECTIONS, bodies)
    saturation = closed["requests"] / closed["seconds"]
    idle = service.load("/health", min(SECONDS, 60.0), saturation / 2, WIDTH, "-")
    ours = service.load("/recommend", SECONDS, saturation / 2, WIDTH, bodies)
    with published_deltas(service, environment):
        first = ranking_of(service)["version"]
        synced = service.load("/recommend", SECONDS, saturation / 2, WIDTH, bodies)
        applied = int(ranking_of(service)["version"]) - int(first)
    per_second = f"{applied} deltas applied in {synced['seconds']:.0f} s"
    return [
        Result(
            "Requests to saturation",
            "requests/s",
            saturation,
            saturation / 2,
            "the rate of the latencies",
            note=f"statuses {closed['statuses']}; {closed['cpu'] * 1e3:.2f} ms of the service's CPU each",
        ),
        *_compared("Latency of /recommend", ours, idle, "a route that does nothing"),
        *_compared("Latency of /recommend with a delta each second", synced, ours, "without deltas", per_second),
    ]


def _compared(name: str, ours: dict[str, Any], other: dict[str, Any], baseline: str, more: str = "") -> list[Result]:
    found = []
    for quantile in QUANTILES:
        mine, floor = ours["quantiles"][quantile], other["quantiles"][quantile]
        cpu = f"CPU of the service {ours['cpu'] * 1e3:.2f} ms against {other['cpu'] * 1e3:.2f} ms each"
        note = f"{mine * 1e3:.2f} ms against {floor * 1e3:.2f} ms, {ours['requests']:,} requests, statuses {ours['statuses']}"
        note = "; ".join(part for part in (note, cpu, more) if part)
        found.append(Result(f"{name}, quantile {quantile}", "1/s", 1 / mine, 1 / floor, baseline, note=note))
    return found


def ranking_of(service: Service) -> dict[str, Any]:
    """Return what the service says of the model that ranks."""
    return service.get("/version")["ranking"]


@contextmanager
def running_service(home: Path, port: int, environment: Mapping[str, str], processes: int = 1) -> Iterator[Service]:
    """Run the service in processes of its own."""
    command = [sys.executable, "-m", "orchestration.serve", DATASET, "--port", str(port), "--processes", str(processes)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment)
    assert process.stdout is not None
    try:
        if not any(line.startswith("Try:") for line in process.stdout):
            raise RuntimeError(f"{' '.join(command)} ended at its start; run it to see why")
        token = (home / "serving-token").read_text().strip()
        yield Service(f"http://127.0.0.1:{port}", token, psutil.Process(process.pid))
    finally:
        process.terminate()
        process.wait(30)


@contextmanager
def published_deltas(service: Service, environment: Mapping[str, str]) -> Iterator[subprocess.Popen[str]]:
    """Publish a delta each second, from when the service serves the first ones. The process writes the version of each."""
    arguments = [DATASET, ranking_of(service)["model"], str(DELTA_ROWS), str(int(SECONDS * 1.1) + 60)]
    command = [sys.executable, "-m", "benchmarks._deltas", *arguments]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        process.stdout.readline()  # all deltas are recorded
        until = time.monotonic() + 120
        while ranking_of(service)["source"] != "sync" or int(ranking_of(service)["version"]) < 3:
            if process.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"{' '.join(command)} did not reach the service")
            time.sleep(0.5)
        yield process
        if process.poll() is not None:
            raise RuntimeError(f"{' '.join(command)} ended with status {process.returncode} before the measurement did")
    finally:
        process.kill()
        process.wait()
