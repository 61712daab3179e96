"""Standard error of Spark's processes: tracebacks of closed workers are left out, and everything else is passed on."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from ml.compute.spark_stderr import filtered_stderr, relevant_lines

CLOSED = b"""Traceback (most recent call last):
  File "/lib/pyspark.zip/pyspark/daemon.py", line 264, in manager
  File "/lib/pyspark.zip/pyspark/daemon.py", line 95, in worker
BrokenPipeError: [Errno 32] Broken pipe
"""
FAULT = CLOSED.replace(b"BrokenPipeError", b"ValueError")
OTHER_PIPE = CLOSED.replace(b"daemon.py", b"other.py", 1)
NAME = b"Streaming TransformWithStateInPandas Python worker"
STARTS = b"Starting " + NAME + b".\n\n" + NAME + b" ran.\n\n"


def kept(text: bytes) -> bytes:
    return b"".join(relevant_lines(text.splitlines(keepends=True)))


def test_only_noise_is_left_out() -> None:
    assert kept(b"a\n" + CLOSED + CLOSED + b"b\n" + STARTS + b"c\n\n") == b"a\nb\nc\n\n"
    for text in (FAULT, OTHER_PIPE, CLOSED[:100], b"BrokenPipeError: alone\n", FAULT + b"\n" + b" indented\n"):
        assert kept(text) == text


def test_a_process_that_starts_inside_is_filtered_to_its_end(capfd: pytest.CaptureFixture[str]) -> None:
    code = f"import sys, time; time.sleep(0.3); sys.stderr.buffer.write({CLOSED + FAULT!r})"
    with filtered_stderr():
        process = subprocess.Popen([sys.executable, "-c", code])
    sys.stderr.write("ours\n")
    assert process.wait() == 0
    printed, deadline = "", time.monotonic() + 10
    while "ValueError" not in printed and time.monotonic() < deadline:
        printed += capfd.readouterr().err
        time.sleep(0.05)
    assert "ours" in printed and "ValueError" in printed and "BrokenPipeError" not in printed
