"""PySpark's daemon of Python workers, without the tracebacks of workers that Spark has closed.

Spark closes the socket of a worker that it no longer needs. The worker then fails to flush its output, and PySpark's daemon
prints a traceback for it, although nothing went wrong. Spark starts this module instead (`spark.python.daemon.module`).
"""

from __future__ import annotations

import sys
import traceback
from types import SimpleNamespace

from pyspark import daemon


def print_exc() -> None:
    """Print the current exception, unless it reports that Spark has closed the connection."""
    if not isinstance(sys.exc_info()[1], BrokenPipeError):
        traceback.print_exc()


if __name__ == "__main__":
    daemon.traceback = SimpleNamespace(print_exc=print_exc, format_exc=traceback.format_exc)  # type: ignore[attr-defined]
    daemon.manager()
