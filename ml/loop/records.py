"""What the population records: quality of each request, what the service has acknowledged, and when models were served.

| file                          | content of a line                                                                  |
|-------------------------------|------------------------------------------------------------------------------------|
| `requests-<arm>-*.jsonl`      | `at`, `failed`, `rows`: simulated time, user, and the chances `recommended`, `best`, `any` |
| `acknowledged-<arm>-*.jsonl`  | `at`, `time`, and the keys of `impressions` or of `actions`                        |
| `served-*.jsonl`              | `at`, `event_to`: the latest event that the online arm's model was trained on      |

Each process writes files of its own, so that a kill can only cut off the last line of a file, which is ignored. `at` is in
seconds since 1970 UTC, simulated times are in microseconds.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

REQUESTS, ACKNOWLEDGED, SERVED = "requests", "acknowledged", "served"


class Recorder:
    """Appends lines to a file of this process.

    Args:
        folder: Folder of the records. Created if it does not exist.
        kind: Beginning of the file's name.
    """

    def __init__(self, folder: Path, kind: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._file = (folder / f"{kind}-{time.time_ns():020d}.jsonl").open("x")

    def write(self, **line: Any) -> None:
        """Append a line with the time `at`."""
        self._file.write(json.dumps({"at": time.time(), **line}) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read_records(folder: Path, kind: str) -> Iterator[dict[str, Any]]:
    """Yield the lines of all processes, file by file. kind: beginning of the names, such as `requests-online`."""
    for file in sorted(folder.glob(f"{kind}-*.jsonl")):
        text = file.read_text()
        for line in text.splitlines()[: text.count("\n")]:
            yield json.loads(line)
