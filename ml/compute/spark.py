"""The Spark session of this process, which is local unless `EVERGREEN_SPARK_MASTER` names a cluster."""

from __future__ import annotations

import os
import re
import sys
from typing import TYPE_CHECKING

from ml.compute.java import use_java

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


def literal_path(path: str) -> str:
    r"""Escape a path for Spark's readers, which take `*?[]{}` and backslashes for patterns.

    >>> literal_path("/lake/s[t]/part-00000.parquet")
    '/lake/s\\[t\\]/part-00000.parquet'
    """
    return re.sub(r"([\[\]{}*?\\])", r"\\\1", path)


def start_session(master: str | None = None, app: str = "evergreen") -> SparkSession:
    """Return the session of this process. The first call starts it, which takes 5 to 20 s.

    Workers run this Python interpreter, and timestamps are UTC. With a local master, all ports bind to the loopback interface.

    Args:
        master: Spark's master; by default `EVERGREEN_SPARK_MASTER`, else local with all cores.
        app: Name of the application.

    Returns:
        The active session.

    Raises:
        JavaMissing: The master is local and no Java that Spark runs on is installed.
    """
    from pyspark.sql import SparkSession

    active = SparkSession.getActiveSession()
    if active is not None:
        return active
    master = master or os.environ.get("EVERGREEN_SPARK_MASTER") or f"local[{os.cpu_count() or 2}]"
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    builder = (
        SparkSession.builder.master(master)
        .appName(app)
        .config("spark.ui.enabled", "false")
        .config("spark.ui.showConsoleProgress", "false")
        .config("spark.sql.session.timeZone", "UTC")
        .config("spark.sql.caseSensitive", "true")  # a file may have columns `id` and `ID`, as in Arrow
        .config("spark.sql.shuffle.partitions", str(2 * (os.cpu_count() or 2)))
        .config("spark.sql.execution.arrow.pyspark.enabled", "true")
        # Over TCP, each task would wait tens of milliseconds for an acknowledgement.
        .config("spark.python.unix.domain.socket.enabled", "true")
        .config("spark.python.daemon.module", "ml.compute.spark_daemon")
        .config("spark.driver.memory", os.environ.get("EVERGREEN_SPARK_MEMORY", "2g"))
        .config("spark.log.level", "ERROR")
    )
    if master.startswith("local"):
        use_java()
        os.environ.setdefault(
            "SPARK_LOCAL_IP", "127.0.0.1"
        )  # else Spark looks up the machine's name, which may have no address
        builder = builder.config("spark.driver.bindAddress", "127.0.0.1").config("spark.driver.host", "127.0.0.1")
    session = builder.getOrCreate()
    session.sparkContext.setLogLevel("ERROR")
    return session
