"""Labels that become known after their example."""

from __future__ import annotations

import numpy as np

from ml.online.known_labels import HeldBackRows, WaitingSlices


def test_a_slice_waits_until_its_last_label_is_known() -> None:
    waiting = WaitingSlices[str](wait=10)
    for part, events in (("a", (0, 5)), ("b", (6, 9)), ("c", (10, 20))):
        waiting.add(part, events)
    assert waiting.known(14) == []
    assert waiting.known(19) == [("a", (0, 5)), ("b", (6, 9))] and waiting.known(29) == []
    assert waiting.known(30) == [("c", (10, 20))] and waiting.rest() == []


def test_every_row_is_revealed_once_with_its_own_prediction() -> None:
    rng = np.random.default_rng(0)
    times, labels = np.sort(rng.integers(0, 1000, 300)), rng.random(300).astype(np.float32)
    held, found = HeldBackRows(wait=50), list[tuple[np.ndarray, np.ndarray]]()
    for index in np.array_split(np.arange(300), 12):
        known, predictions = held.reveal(times[index], labels[index], {"online": labels[index] * 2, "stale": labels[index] * 3})
        end = sum(len(of) for of, _ in found) + len(known)
        assert (times[:end] + 50 <= times[index[-1]]).all() and (times[end : index[-1] + 1] + 50 > times[index[-1]]).all()
        assert np.array_equal(predictions["stale"], known * 3)
        found.append((known, predictions["online"]))
    revealed, online = (np.concatenate([pair[n] for pair in found]) for n in range(2))
    assert np.array_equal(revealed, labels[: len(revealed)]) and np.array_equal(online, revealed * 2)
    assert len(revealed) + len(held.times) == 300 and len(held.times) > 0


def test_without_a_wait_all_rows_of_a_slice_are_revealed() -> None:
    labels = np.array([0.0, 1.0], np.float32)
    assert HeldBackRows(0).reveal(np.array([5, 5]), labels, {"online": labels})[0] is labels


def test_held_back_rows_continue_from_a_checkpoint() -> None:
    times, labels = np.arange(20), np.arange(20).astype(np.float32)
    one, other = HeldBackRows(5), HeldBackRows(5)
    one.reveal(times[:10], labels[:10], {"online": labels[:10]})
    other.restore(one.times, labels[10 - len(one.times) : 10], {"online": labels[10 - len(one.times) : 10]})
    pairs = zip(*(held.reveal(times[10:], labels[10:], {"online": labels[10:]}) for held in (one, other)), strict=True)
    (known, again), (predictions, same) = pairs
    assert np.array_equal(known, again) and np.array_equal(predictions["online"], same["online"])
