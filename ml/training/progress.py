"""How far a pass is, for a person: a bar on a terminal, a line now and then in a log elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm import tqdm

from ml.training.loop import Step

_SECONDS_BETWEEN_LINES = 30.0
_log = logging.getLogger(__name__)


@contextmanager
def progress_of(title: str, rows: int, done: int = 0, show: bool = True) -> Iterator[Callable[[Step], None] | None]:
    """What `train` calls after each step: of `rows` rows, `done` were trained on before. None where nothing is to be shown."""
    if not show:
        yield None
    elif sys.stderr.isatty():
        with tqdm(total=rows, initial=done, desc=title, unit="row", unit_scale=True, smoothing=0.1) as bar:
            yield _on_bar(bar)
    else:
        yield _in_log(title, rows, done)


def _on_bar(bar: tqdm) -> Callable[[Step], None]:
    smooth: list[float] = []

    def show(step: Step) -> None:
        if step.terms:
            smooth[:] = [0.95 * smooth[0] + 0.05 * step.loss if smooth else step.loss]
            bar.set_postfix(loss=f"{smooth[0]:.4f}", refresh=False)
        bar.update(step.rows)

    return show


def _in_log(title: str, rows: int, done: int) -> Callable[[Step], None]:
    began = said = time.monotonic()
    seen, loss_sum, terms = done, 0.0, 0

    def show(step: Step) -> None:
        nonlocal said, seen, loss_sum, terms
        seen, loss_sum, terms = seen + step.rows, loss_sum + step.loss * step.terms, terms + step.terms
        now = time.monotonic()
        if now - said > _SECONDS_BETWEEN_LINES:
            rate = (seen - done) / (now - began)
            _log.info("%s: %d of %d rows, loss %.4f, %.0f rows/s", title, seen, rows, loss_sum / max(terms, 1), rate)
            said, loss_sum, terms = now, 0.0, 0

    return show
