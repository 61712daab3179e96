from __future__ import annotations

import multiprocessing
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from operator import add
from pathlib import Path

import pytest
from dask.threaded import get

from ml.compute.dask_cluster import DASHBOARD_PORT, IN_PROCESS_BYTES, Cluster, SchedulerUnreachable, close_clients, parse_adapt
from ml.compute.task_graph import tree_reduce
from tests.helpers.paths import ROOT


def started_process() -> int | None:
    """Start a process in a worker, which a daemonic worker cannot."""
    child = multiprocessing.get_context("spawn").Process(target=abs, args=(1,))
    child.start()
    child.join()
    return child.exitcode


@pytest.fixture
def closed() -> Iterator[None]:
    yield
    close_clients()


@pytest.mark.slow
def test_a_local_cluster_has_a_memory_limit_and_workers_that_start_processes(closed: None) -> None:
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with suppress(OSError):  # another process has taken the port, which serves as well
            taken.bind(("127.0.0.1", DASHBOARD_PORT))
            taken.listen()
        client = Cluster(adapt=(1, 2)).client()
    workers = client.scheduler_info()["workers"].values()
    assert all(worker["memory_limit"] > 0 for worker in workers)
    assert client.dashboard_link.startswith("http://127.0.0.1:")
    assert f":{DASHBOARD_PORT}/" not in client.dashboard_link
    assert client.submit(started_process).result(timeout=60) == 0
    assert Cluster(adapt=(1, 2)).client() is client
    named = Cluster(client.scheduler_info()["address"])
    assert named.client().submit(abs, -2).result(timeout=60) == 2
    assert named.get(1) == named.client().get
    cluster_get = Cluster(adapt=(1, 2)).get(IN_PROCESS_BYTES + 1)
    leaves = [partial(add, i, 0) for i in range(20)]
    assert tree_reduce(leaves, sum, cluster_get) == tree_reduce(leaves, sum, get) == sum(range(20))


NOISY = """
import logging

logging.basicConfig()  # as libraries do that log while they are imported; a worker imports the main module of its parent
import distributed

if __name__ == "__main__":
    from ml.compute.dask_cluster import Cluster

    print(Cluster(adapt=(1, 1)).client().submit(abs, -1).result())
"""


@pytest.mark.slow
def test_the_start_and_the_end_of_a_local_cluster_print_nothing(tmp_path: Path) -> None:
    (tmp_path / "noisy.py").write_text(NOISY)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(tmp_path / "noisy.py")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120, env=environment, cwd=tmp_path)
    assert done.stdout == "1\n" and "distributed" not in done.stderr


def test_small_inputs_are_processed_in_this_process() -> None:
    assert Cluster().get(IN_PROCESS_BYTES) is get


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:1", "nowhere"])
def test_a_scheduler_that_does_not_answer_is_refused_by_name(address: str) -> None:
    began = time.monotonic()
    with pytest.raises(SchedulerUnreachable, match=f"EVERGREEN_DASK: no Dask scheduler answers at '{address}'"):
        Cluster(address).get(nbytes=1)
    assert time.monotonic() - began < 20


def test_another_service_at_the_address_is_refused() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        address = f"tcp://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(SchedulerUnreachable, match=address):
            Cluster(address).client()


def test_ranges_of_workers() -> None:
    assert parse_adapt("0:1") == (0, 1)
    with pytest.raises(ValueError, match="expected min:max"):
        parse_adapt("3:2")


def test_results_are_combined_in_order() -> None:
    leaves = [partial(str, i) for i in range(100)]
    assert tree_reduce(leaves, "".join, get) == "".join(map(str, range(100)))
    assert tree_reduce([partial(list, "ab")], lambda parts: parts[0] + ["end"], get) == ["a", "b", "end"]
    with pytest.raises(ValueError, match="at least one leaf"):
        tree_reduce([], sum, get)
