"""Two-stage requests with 500 candidates to the service, from a second process on loopback.

The service runs in a process of its own with one computing thread, on Globo's demo in the Evergreen home (`make demo
DATASET=globo LOGS=<folder>`), and requests are those of its users. The saturation rate is that of four connections that send
without a pause. Latencies are measured at half of it, from the moment at which a request is due. The baseline is `/health`, a
route that does nothing, at the same rate.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import httpx

from benchmarks.real_logs import NoRealLogs
from benchmarks.result import Result
from ml.catalog.load import load_catalog
from ml.lake import Lake

DATASET, PORT = "globo", 18715
SECONDS, CONNECTIONS, WIDTH = 20.0, 4, 32


def run() -> list[Result]:
    home = Path(os.environ.get("EVERGREEN_HOME") or ".evergreen").absolute()
    spec = load_catalog()[DATASET]
    if not Lake.at(home).days(f"exported_models/{spec.primary}", DATASET):
        raise NoRealLogs(f"no export of {DATASET} in {home}; run `make demo DATASET={DATASET} LOGS=<folder>` first")
    command = [sys.executable, "-m", "orchestration.serve", DATASET, "--port", str(PORT)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    try:
        next(line for line in process.stdout if line.startswith("Try:"))
        return _measured(f"http://127.0.0.1:{PORT}", (home / "serving-token").read_text().strip())
    finally:
        process.terminate()
        process.wait(30)


def _measured(url: str, token: str) -> list[Result]:
    with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {token}"}, timeout=30) as client:
        users = client.get("/users").json()["users"]
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as file:
        file.write("\n".join(json.dumps({"user": user, "k": 10}) for user in users))
        file.flush()
        _load(url + "/recommend", token, 3.0, 0.0, CONNECTIONS, file.name)  # warm
        closed = _load(url + "/recommend", token, SECONDS / 2, 0.0, CONNECTIONS, file.name)
        saturation = closed["requests"] / closed["seconds"]
        idle = _load(url + "/health", token, SECONDS, saturation / 2, WIDTH, "-")
        ours = _load(url + "/recommend", token, SECONDS, saturation / 2, WIDTH, file.name)
    results = []
    for quantile in ("0.5", "0.99", "0.999"):
        mine, floor = ours["quantiles"][quantile], idle["quantiles"][quantile]
        note = f"{mine * 1e3:.2f} ms against {floor * 1e3:.2f} ms, {ours['requests']:,} requests, statuses {ours['statuses']}"
        name = f"Latency of /recommend, quantile {quantile}"
        results.append(Result(name, "1/s", 1 / mine, 1 / floor, "a route that does nothing", note=note))
    note = f"statuses {closed['statuses']}"
    return [
        Result("Requests to saturation", "requests/s", saturation, saturation / 2, "the rate of the latencies", note=note),
        *results,
    ]


def _load(url: str, token: str, seconds: float, rate: float, connections: int, bodies: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks._load", url, token, str(seconds), str(rate), str(connections), bodies]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
