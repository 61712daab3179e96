"""The Dask cluster of this process: processes on this machine, or a scheduler that `EVERGREEN_DASK` names.

It is started on first use and closed when the process exits. Its workers are not daemonic, because the tasks of a trial start
processes of their own.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import re
import socket
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ml.compute.task_graph import Get

if TYPE_CHECKING:
    from distributed import Client

LOOPBACK = "127.0.0.1"
DASHBOARD_PORT = 8787
CONNECT_SECONDS = 5
MEMORY_SHARE = 0.75
"""Share of the machine's memory that all local workers may use together. A worker that exceeds its part is restarted."""

IN_PROCESS_BYTES = 256 * 2**20
"""Largest input that is processed in this process. Starting a local cluster takes about 4 s of CPU time."""

_ENVIRONMENT = "distributed.nanny.pre-spawn-environ"  # key of Dask's configuration: variables of a worker's process

_CLIENTS: dict[Cluster, Client] = {}
_LOCK = threading.Lock()


class SchedulerUnreachable(ValueError):
    """No Dask scheduler answers at the address."""


@dataclass(frozen=True)
class Cluster:
    """Where Dask tasks run.

    Args:
        address: Address of a scheduler, such as `tcp://10.0.0.5:8786`; empty for a local cluster.
        adapt: Smallest and largest number of workers between which a local cluster scales with its load; by default it has one
            worker per core.

    Example:
        >>> from operator import neg
        >>> Cluster().get(nbytes=100)({"result": (neg, 1)}, "result")
        -1
    """

    address: str = ""
    adapt: tuple[int, int] | None = None

    def client(self) -> Client:
        """Returns the client of the cluster; the first call starts the cluster or connects to the scheduler.

        Raises:
            SchedulerUnreachable: The scheduler does not answer within 5 s.
        """
        with _LOCK:
            client = _CLIENTS.get(self)
            if client is None or client.status != "running":
                client = _CLIENTS[self] = _connect(self.address) if self.address else _start(self.adapt)
            return client

    def get(self, nbytes: int) -> Get:
        """Returns the function that runs a graph of tasks; see `ml.compute.task_graph`.

        A scheduler with an address is always used. Without one, small inputs are processed by threads of this process, and a
        local cluster is started for others.

        Args:
            nbytes: Size of the input.
        """
        if not self.address and nbytes <= IN_PROCESS_BYTES:
            from dask.threaded import get

            return get
        return self.client().get


def parse_adapt(text: str) -> tuple[int, int]:
    """Parses `min:max`, two numbers of workers.

    Raises:
        ValueError: The text is not of this form, or the numbers are not in order.

    Example:
        >>> parse_adapt("1:8")
        (1, 8)
    """
    found = re.fullmatch(r"(\d+):(\d+)", text)
    if not found or int(found[2]) < max(1, int(found[1])):
        raise ValueError(f"expected min:max, two numbers of workers with 0 <= min <= max and max >= 1, found {text!r}")
    return int(found[1]), int(found[2])


def close_clients() -> None:
    """Closes all clients of this process, and the clusters that it has started."""
    with _LOCK:
        while _CLIENTS:
            client = _CLIENTS.popitem()[1]
            cluster = client.cluster
            client.close()
            if cluster is not None:
                cluster.close()


def _connect(address: str) -> Client:
    from distributed import Client

    try:
        asyncio.run(asyncio.wait_for(_identity(address), CONNECT_SECONDS))
        client = Client(address, timeout=CONNECT_SECONDS)
    except Exception as error:  # another service at the address can cause any error
        raise SchedulerUnreachable(
            f"EVERGREEN_DASK: no Dask scheduler answers at {address!r} ({type(error).__name__}: {error}). Start it with "
            f"`dask scheduler`, correct the address, or unset the variable for a cluster on this machine"
        ) from error
    atexit.register(close_clients)
    return client


async def _identity(address: str) -> None:
    """Asks the scheduler who it is. A client would wait indefinitely for a service that accepts connections and is silent."""
    from distributed import rpc

    async with rpc(address, timeout=CONNECT_SECONDS) as scheduler:
        await scheduler.identity()


def _start(adapt: tuple[int, int] | None) -> Client:
    import dask.config

    dask.config.set({"logging.distributed": "error"})  # read when distributed is imported
    from dask.system import CPU_COUNT
    from distributed import Client, LocalCluster
    from distributed.system import MEMORY_LIMIT  # like CPU_COUNT, it respects the limits of a container

    # For the whole process, since nannies restart workers.
    dask.config.set({"distributed.worker.daemon": False, f"{_ENVIRONMENT}.DASK_LOGGING__DISTRIBUTED": "warning"})
    workers = adapt[1] if adapt else CPU_COUNT
    options: dict[str, Any] = {
        "n_workers": adapt[0] if adapt else workers,
        "threads_per_worker": 1,
        "processes": True,
        "host": LOOPBACK,
        "memory_limit": int(MEMORY_SHARE * MEMORY_LIMIT / workers),
        "dashboard_address": f"{LOOPBACK}:{_dashboard_port()}",
        "worker_dashboard_address": f"{LOOPBACK}:0",
    }
    logging.getLogger("distributed").setLevel(logging.ERROR)  # its start and end would print dozens of lines
    cluster = LocalCluster(**options, silence_logs=logging.ERROR)
    if adapt:
        cluster.adapt(minimum=adapt[0], maximum=adapt[1])
    atexit.register(close_clients)
    return Client(cluster)


def _dashboard_port() -> int:
    """Returns the default port, or 0 for a free one if it is taken."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, DASHBOARD_PORT))
        except OSError:
            return 0
    return DASHBOARD_PORT
