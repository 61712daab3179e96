"""Progress of a pass: a bar on a terminal, otherwise a log line every half minute."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm import tqdm

from ml.training.report import Step

_SECONDS_BETWEEN_LINES = 30.0
_log = logging.getLogger(__name__)


@contextmanager
def progress_of(title: str, rows: int, done: int = 0, show: bool = True) -> Iterator[Callable[[Step], None]]:
    """Show the progress of a pass inside the block.

    Args:
        title: Text in front of the bar, or of each line.
        rows: Number of rows of the whole pass.
        done: Number of rows that earlier, interrupted runs trained on.
        show: Whether to show progress at all.

    Yields:
        A function to call after each step.
    """
    if not show:
        yield lambda step: None
    elif sys.stderr.isatty():
        with tqdm(total=rows, initial=done, desc=title, unit="row", unit_scale=True, smoothing=0.1) as bar:
            yield _bar(bar)
    else:
        yield _log_lines(title, rows, done)


def _bar(bar: tqdm) -> Callable[[Step], None]:
    smooth: list[float] = []

    def show(step: Step) -> None:
        if step.num_losses:
            smooth[:] = [0.95 * smooth[0] + 0.05 * step.loss if smooth else step.loss]
            bar.set_postfix(loss=f"{smooth[0]:.4f}", refresh=False)
        bar.update(step.rows)

    return show


def _log_lines(title: str, rows: int, done: int) -> Callable[[Step], None]:
    started = last_line = time.monotonic()
    seen, loss_sum, losses = done, 0.0, 0

    def show(step: Step) -> None:
        nonlocal last_line, seen, loss_sum, losses
        seen, loss_sum, losses = seen + step.rows, loss_sum + step.loss * step.num_losses, losses + step.num_losses
        now = time.monotonic()
        if now - last_line > _SECONDS_BETWEEN_LINES:
            rate = (seen - done) / (now - started)
            _log.info("%s: %d of %d rows, loss %.4f, %.0f rows/s", title, seen, rows, loss_sum / max(losses, 1), rate)
            last_line, loss_sum, losses = now, 0.0, 0

    return show
