"""A thread gives way as it was told to, and other threads do not."""

from __future__ import annotations

import threading

from ml.give_way import give_way, set_wait


def test_each_thread_waits_in_its_own_way() -> None:
    waited = list[str]()

    def work(name: str) -> None:
        set_wait(lambda: waited.append(name))
        give_way()
        give_way()
        set_wait(None)
        give_way()

    give_way()
    for name in ("models", "items"):
        thread = threading.Thread(target=work, args=(name,))
        thread.start()
        thread.join()
    give_way()
    assert waited == ["models", "models", "items", "items"]
