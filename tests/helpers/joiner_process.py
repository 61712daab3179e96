"""A process that joins a stream, to be killed: `python -m tests.helpers.joiner_process <folder of the stream>`."""

from __future__ import annotations

import sys

from upath import UPath

from ml.compute.spark import start_session
from ml.joiner.joining import Joining
from ml.joiner.service import run_to_end
from tests.helpers.joined_logs import feed

if __name__ == "__main__":
    run_to_end(Joining(feed(), UPath(sys.argv[1]), ends=True, batch_bytes=1, every_seconds=0.0), start_session("local[2]"))
