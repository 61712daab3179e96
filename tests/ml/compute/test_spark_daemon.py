"""The daemon of Spark's Python workers."""

from __future__ import annotations

from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from ml.compute.spark_daemon import print_exc


def test_a_closed_connection_is_not_reported(capsys: pytest.CaptureFixture[str]) -> None:
    for error in (BrokenPipeError("closed by Spark"), ValueError("a real fault")):
        try:
            raise error
        except Exception:
            print_exc()
    assert "a real fault" in (printed := capsys.readouterr().err) and "closed by Spark" not in printed


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").exists(), reason="reads the command line of a process from /proc")
def test_workers_run_under_it(spark: SparkSession) -> None:
    def parent() -> str:
        import os
        from pathlib import Path

        return Path(f"/proc/{os.getppid()}/cmdline").read_text()

    found = spark.sparkContext.parallelize([0], 1).map(lambda _: parent()).collect()
    assert all("ml.compute.spark_daemon" in line for line in found)
