"""A trial in a process and a folder of its own: `python -m ml.trials.process FOLDER DESCRIPTOR`.

The folder holds `trial.json`, `log.txt`, one line of `scores.jsonl` for each scored day, and `result.json` once the trial is
done. A trial whose `result.json` exists is not trained again, so a result that was not reported is not lost.

With early stopping, the process writes each checkpoint as a line of JSON to the file descriptor that is its second argument.
It then waits for a line on its standard input: why it should stop, or an empty one to continue.
"""

from __future__ import annotations

import json
import os
import selectors
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

from ml.disk import replace_text
from ml.trials.checkpoints import OnCheckpoint
from ml.trials.trial import Trial, TrialResult, run_trial

TRIAL, RESULT, SCORES, LOG = "trial.json", "result.json", "scores.jsonl", "log.txt"
PARENT = "EVERGREEN_TRIAL_PARENT"
SECONDS_TO_STOP = 10.0
_LOG_BYTES = 4000


class TrialFailed(RuntimeError):
    """The process of a trial failed; the message has the end of its log."""


def in_process(
    trial: Trial,
    folder: Path,
    beat: Callable[[], None] = lambda: None,
    seconds: float = 1.0,
    on_checkpoint: OnCheckpoint = lambda number, metrics: "",
) -> TrialResult:
    """Run a trial in a process of its own, on one core.

    Args:
        trial: The trial.
        folder: Its folder. A result of the same trial in it is returned as it is; anything else in it is removed.
        beat: Called every `seconds` while the trial runs.
        seconds: How often to call `beat`.
        on_checkpoint: Called with the metrics of each checkpoint of a trial with early stopping. If it returns a reason, the
            trial is stopped.

    Returns:
        The metrics.

    Raises:
        TrialFailed: The process failed.
    """
    folder, given = folder.absolute(), trial.to_json()  # the process has another working folder
    if (found := _result(folder, given)) is not None:
        return found
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / TRIAL).touch(mode=0o600)  # the options of a lake can have credentials
    (folder / TRIAL).write_text(json.dumps(given))
    environment = os.environ | {name: str(trial.recipe.threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    root = str(Path(__file__).parents[2])
    environment |= {PARENT: str(os.getpid()), "OMP_WAIT_POLICY": "PASSIVE", "PYTHONPATH": os.pathsep.join([root, *sys.path])}
    reports, sending = os.pipe()
    with (folder / LOG).open("wb") as log, os.fdopen(reports) as lines:
        process = subprocess.Popen(
            [sys.executable, "-m", "ml.trials.process", str(folder), str(sending)],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            env=environment,
            cwd=folder,
            pass_fds=[sending],
            text=True,
        )
        os.close(sending)
        try:
            _watch(process, lines, beat, seconds, on_checkpoint)
        finally:
            _end(process)
    if (found := _result(folder, given)) is None:
        raise TrialFailed(f"the trial in {folder} ended with {_ending(process.returncode)}: {_end_of_log(folder)}")
    return found


def _watch(
    process: subprocess.Popen[str], reports: TextIO, beat: Callable[[], None], seconds: float, on_checkpoint: OnCheckpoint
) -> None:
    """Wait for the end of a process. In the meantime, call `beat`, and answer its reports."""
    with selectors.DefaultSelector() as selector:  # select() fails in a process with more than 1,024 open files
        selector.register(reports, selectors.EVENT_READ)
        while process.poll() is None:
            ready = selector.select(seconds)
            if ready and (line := reports.readline()):
                answer = on_checkpoint(**json.loads(line))
                with suppress(BrokenPipeError):  # the process has ended
                    print(answer, file=process.stdin, flush=True)
            elif ready:  # the process closed its end, so it is about to end
                with suppress(subprocess.TimeoutExpired):
                    process.wait(seconds)
            beat()


def _end(process: subprocess.Popen[str]) -> None:
    if process.stdin is not None:
        with suppress(BrokenPipeError):
            process.stdin.close()
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(SECONDS_TO_STOP)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _result(folder: Path, trial: Mapping[str, Any]) -> TrialResult | None:
    """Return the result of this trial, if its folder holds one."""
    try:
        if json.loads((folder / TRIAL).read_text()) == trial:
            return TrialResult(**json.loads((folder / RESULT).read_text()))
    except (OSError, ValueError, TypeError):
        return None
    return None


def _ending(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"


def _end_of_log(folder: Path) -> str:
    text = (folder / LOG).read_bytes()[-_LOG_BYTES:].decode(errors="replace").strip()
    return text.rpartition("\n")[2] or "its log is empty"


def _end_with(parent: int, seconds: float = 1.0) -> None:
    """Exit once the parent has ended: a killed worker's trial starts again in the same folder."""
    while os.getppid() == parent:
        time.sleep(seconds)
    os._exit(1)


def main(folder: Path, reports: int) -> None:
    """Run the trial of a folder and write its result. `reports` is a file descriptor for checkpoints."""
    os.set_inheritable(reports, False)
    threading.Thread(target=_end_with, args=(int(os.environ.get(PARENT, os.getppid())),), daemon=True).start()
    trial = Trial.from_json(json.loads((folder / TRIAL).read_text()))
    with (folder / SCORES).open("w") as scores, os.fdopen(reports, "w") as lines:

        def on_day(day: Any) -> None:
            if day.scores is not None:
                scores.write(json.dumps({"day": day.day} | day.scores) + "\n")
                scores.flush()

        def on_checkpoint(number: int, metrics: Mapping[str, float]) -> str:
            print(json.dumps({"number": number, "metrics": metrics}), file=lines, flush=True)
            return sys.stdin.readline().strip()

        result = run_trial(trial, on_day, on_checkpoint)
    replace_text(folder / RESULT, json.dumps(asdict(result)))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
