from __future__ import annotations

import multiprocessing
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from operator import add

import pytest
from dask.threaded import get

from ml.compute.dask_cluster import DASHBOARD_PORT, IN_PROCESS_BYTES, Cluster, SchedulerUnreachable, close_clients, parse_adapt
from ml.compute.task_graph import tree_reduce


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
