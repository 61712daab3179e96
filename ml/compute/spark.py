"""The Spark session of this process, which is local unless `EVERGREEN_SPARK_MASTER` names a cluster."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

JAVA = 17


class JavaMissing(RuntimeError):
    """The Java version that Spark needs is not installed."""


def check_java() -> None:
    """Raise `JavaMissing`, with the command that installs Java, unless Java 17 is found."""
    home = os.environ.get("JAVA_HOME")
    java = os.path.join(home, "bin", "java") if home else "java"  # noqa: PTH118
    way_out = (
        f"Spark needs Java {JAVA}. Install it with `apt-get install openjdk-{JAVA}-jre-headless` (Debian, Ubuntu) or "
        f"`brew install openjdk@{JAVA}` (macOS), and set JAVA_HOME or PATH to find it."
    )
    try:
        banner = subprocess.run([java, "-version"], capture_output=True, text=True, check=True).stderr
    except (OSError, subprocess.CalledProcessError) as error:
        raise JavaMissing(f"no Java found ({java}): {way_out}") from error
    version = banner.split('"')[1] if '"' in banner else banner.strip()
    if version.split(".")[0] != str(JAVA):
        raise JavaMissing(f"found Java {version} ({java}): {way_out}")


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
        JavaMissing: The master is local and Java 17 is not installed.
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
        check_java()
        builder = builder.config("spark.driver.bindAddress", "127.0.0.1").config("spark.driver.host", "127.0.0.1")
    session = builder.getOrCreate()
    session.sparkContext.setLogLevel("ERROR")
    return session
