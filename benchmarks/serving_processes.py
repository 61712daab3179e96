"""A service of two processes beside one of one process: requests, memory, and the delay of deltas.

Both services run at the same time on Globo's demo in the Evergreen home (`make demo DATASET=globo LOGS=<folder>`), each with a
home of its own for events, and are loaded by turns, so that other work on the machine slows both down. The saturation rate is
that of eight connections that send without a pause. Latencies are measured at half of that of one process, as in
`benchmarks.serving`, and are the medians over the turns.

Memory is PSS of `/proc/<pid>/smaps_rollup`: a page that several processes share counts once. As the models of Globo are small
beside the code and the events of a process, rows are measured apart: a table with ids that two further processes read.

The delay of a delta begins when it has been published, and ends when `/version` of each worker answers with it.

`EVERGREEN_BENCH_SECONDS` sets the length of the load on each service, by default 20.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import signal
import tempfile
import threading
import time
from contextlib import ExitStack
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any

import httpx
import torch
from torchrec.modules.embedding_configs import EmbeddingBagConfig
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from benchmarks.real_logs import NoRealLogs
from benchmarks.result import Result
from benchmarks.serving import DATASET, SECONDS, WIDTH, Service, published_deltas, ranking_of, running_service
from ml.catalog.load import load_catalog
from ml.embeddings.inference.pack import pack
from ml.embeddings.inference.quantised import QuantisedBags
from ml.embeddings.inference.shared.epochs import EpochsHandle, SharedEpochs
from ml.embeddings.inference.shared.pickling import Dump, RowsReader, dump, share_rows
from ml.lake import Lake

PORT, TURNS, CONNECTIONS, DELTAS = 18725, 4, 8, 20
ROWS, DIM, READERS = 5_000_000, 16, 2


def run() -> list[Result]:
    home = Path(os.environ.get("EVERGREEN_HOME") or ".evergreen").absolute()
    lake = os.environ.get("EVERGREEN_LAKE") or str(home)
    if not Lake.at(lake).days(f"exported_models/{load_catalog()[DATASET].primary}", DATASET):
        raise NoRealLogs(f"no export of {DATASET} in {lake}; run `make demo DATASET={DATASET} LOGS=<folder>` first")
    landing = os.environ.get("EVERGREEN_LANDING") or str(home / "landing")
    with tempfile.TemporaryDirectory() as folder, ExitStack() as running:
        services, environments = list[Service](), list[dict[str, str]]()
        for processes in (1, 2):
            own = Path(folder) / str(processes)
            places = {"EVERGREEN_HOME": str(own), "EVERGREEN_SYNC": f"{own}/sync"}
            environments.append(os.environ | places | {"EVERGREEN_LAKE": lake, "EVERGREEN_LANDING": landing})
            started = running_service(own, PORT + processes, environments[-1], processes)
            services.append(running.enter_context(started))
        bodies = Path(folder) / "bodies.jsonl"
        users = services[0].get("/users")["users"]
        bodies.write_text("\n".join(json.dumps({"user": user, "k": 10}) for user in users))
        loaded = _load(services, str(bodies))
        return [*loaded, _memory(*services), _rows(), _delays(services[1], environments[1])]


def _load(services: list[Service], bodies: str) -> list[Result]:
    one, two = services
    for service in services:
        service.load("/recommend", 3.0, 0.0, CONNECTIONS, bodies)  # warm
    closed = _by_turns(services, 0.0, CONNECTIONS, bodies)
    rates = [sum(turn["requests"] for turn in own) / sum(turn["seconds"] for turn in own) for own in closed]
    cpu = [median(turn["cpu"] for turn in own) * 1e3 for own in closed]
    note = f"{CONNECTIONS} connections; CPU of the service {cpu[1]:.2f} ms against {cpu[0]:.2f} ms each"
    found = [Result("Requests to saturation, two processes", "requests/s", rates[1], rates[0], "one process", note=note)]
    opened = _by_turns([one, two], rates[0] / 2, WIDTH, bodies)
    for quantile in ("0.5", "0.99"):
        single, double = (median(turn["quantiles"][quantile] for turn in own) for own in opened)
        note = f"{double * 1e3:.2f} ms against {single * 1e3:.2f} ms at {rates[0] / 2:.0f} requests/s"
        name = f"Latency of /recommend with two processes, quantile {quantile}"
        found.append(Result(name, "1/s", 1 / double, 1 / single, "one process", note=note))
    return found


def _by_turns(services: list[Service], rate: float, connections: int, bodies: str) -> list[list[dict[str, Any]]]:
    found: list[list[dict[str, Any]]] = [[] for _ in services]
    for _ in range(TURNS):
        for own, service in zip(found, services, strict=True):
            own.append(service.load("/recommend", SECONDS / TURNS, rate, connections, bodies))
    return found


def _memory(one: Service, two: Service) -> Result:
    single, double = ([_pss(process.pid) for process in service.processes] for service in (one, two))
    shared = sum(_pss(process.pid, "Pss_Shmem") for process in two.processes)
    note = (
        f"keeper and workers {' + '.join(f'{size:.0f}' for size in double)} MB, {shared:.0f} MB of it shared rows and models; "
    )
    note += f"one process {single[0]:.0f} MB"
    return Result(
        "Memory of two processes", "1/MB", 1 / sum(double), 1 / (2 * single[0]), "two copies of one process", note=note
    )


def _pss(pid: int, kind: str = "Pss") -> float:
    """Memory of a process in MB."""
    [size] = re.findall(rf"^{kind}:\s+(\d+) kB", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
    return int(size) * 1024 / 1e6


def _rows() -> Result:
    """Read a table in several processes."""
    config = EmbeddingBagConfig(name="t", embedding_dim=DIM, num_embeddings=ROWS, feature_names=["t"])
    packed = pack(torch.rand(ROWS, DIM), "int8")
    bags = QuantisedBags([config], "collisionless", ["int8"], [packed], [torch.arange(ROWS)], torch.zeros(2).long())
    epochs = SharedEpochs.create(1 + READERS)
    share_rows(bags, epochs)
    memory, given = dump(bags)
    context, pipes, processes = multiprocessing.get_context("spawn"), list[Connection](), []
    for number in range(1, 1 + READERS):
        own, other = context.Pipe()
        processes.append(context.Process(target=_read, args=(epochs.handle, given, number, other), daemon=True))
        processes[-1].start()
        pipes.append(own)
    for pipe in pipes:
        pipe.recv()
    held = [_pss(pid, "Pss_Shmem") for pid in (os.getpid(), *(process.pid for process in processes))]
    for process in processes:
        process.kill()
        process.join()
    del memory
    size = bags.nbytes / 1e6
    note = (
        f"{ROWS:,} int8 rows and their map, {size:.0f} MB; the writer and {READERS} readers of all rows hold {sum(held):.0f} MB"
    )
    return Result("Memory of rows that three processes use", "1/MB", 1 / sum(held), 1 / (3 * size), "three copies", note=note)


def _read(epochs: EpochsHandle, given: Dump, number: int, connection: Connection) -> None:
    bags, _ = RowsReader(SharedEpochs.attach(epochs, number)).load(given)
    for ids in torch.arange(ROWS).split(100_000):
        bags(KeyedJaggedTensor(["t"], ids, lengths=torch.ones_like(ids)))
    connection.send("read")
    connection.recv()


def _delays(service: Service, environment: dict[str, str]) -> Result:
    """Measure the seconds from a published delta to the first worker and to the last one that answer with it."""
    seen: list[dict[int, float]] = []
    stop = threading.Event()
    workers = service.processes[1:]
    clients = [_client(service, worker.pid, [other.pid for other in workers]) for worker in workers]
    for client in clients:
        seen.append({})
        threading.Thread(target=_watch, args=(client, seen[-1], stop), daemon=True).start()
    published: dict[int, float] = {}
    with published_deltas(service, environment) as deltas:
        assert deltas.stdout is not None
        first = int(ranking_of(service)["version"])
        for line in deltas.stdout:
            published[int(line)] = time.monotonic()
            if int(line) >= first + DELTAS:
                break
        time.sleep(3)
    stop.set()
    versions = [version for version in published if first < version and all(version in own for own in seen)]
    delays = [sorted(own[version] - published[version] for own in seen) for version in versions]
    earliest, latest = median(own[0] for own in delays), median(own[-1] for own in delays)
    apart = max(own[-1] - own[0] for own in delays)
    note = f"{len(delays)} deltas: {earliest:.2f} s and {latest:.2f} s (at most {max(own[-1] for own in delays):.2f} s), "
    note += f"workers at most {apart * 1e3:.0f} ms apart; the keeper looks each second"
    return Result("A delta answered by all workers", "1/s", 1 / latest, 1 / earliest, "by the first of them", note=note)


def _client(service: Service, worker: int, workers: list[int]) -> httpx.Client:
    """Return a client whose connection a worker has accepted, as the others were stopped meanwhile."""
    others = [pid for pid in workers if pid != worker]
    for pid in others:
        os.kill(pid, signal.SIGSTOP)
    try:
        client = httpx.Client(base_url=service.url, headers={"Authorization": f"Bearer {service.token}"}, timeout=30)
        client.get("/health").raise_for_status()
    finally:
        for pid in others:
            os.kill(pid, signal.SIGCONT)
    return client


def _watch(client: httpx.Client, seen: dict[int, float], stop: threading.Event) -> None:
    while not stop.wait(0.01):
        ranking = client.get("/version").raise_for_status().json()["ranking"]
        if ranking["source"] == "sync":
            seen.setdefault(int(ranking["version"]), time.monotonic())
