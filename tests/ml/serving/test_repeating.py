"""Steps are taken again and again, also after errors, and wait for requests each time."""

from __future__ import annotations

import threading

from ml.give_way import give_way
from ml.serving.repeating import repeat


def test_steps_wait_for_requests_and_errors_hold_up_no_other_step() -> None:
    stop, happened = threading.Event(), list[str]()

    def fails() -> None:
        happened.append("fails")
        raise OSError("the disk is full")

    def works() -> None:
        happened.append("works")
        give_way()
        if happened.count("works") == 2:
            stop.set()

    thread = threading.Thread(target=repeat, args=([fails, works], stop, 0.0, lambda: happened.append("wait")))
    thread.start()
    thread.join(60)
    assert happened == ["wait", "fails", "wait", "works", "wait"] * 2
