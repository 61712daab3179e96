"""Late labels: what each choice trains on, and that no choice except the oracle knows a click before it happens."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ml.online.late_labels import CHOICES, NEVER, Events, lessons
from ml.training.objectives import cross_entropy, fake_negative_weights


def made(rows: int = 500, seed: int = 0, wait: int = 40) -> tuple[Events, np.ndarray]:
    rng = np.random.default_rng(seed)
    shown = np.sort(rng.integers(0, 1000, rows))
    clicked = np.where(rng.random(rows) < 0.4, shown + rng.integers(0, 200, rows), NEVER)
    return Events(shown, clicked, wait), np.array([0, 50, 50, 180, 300, rows])


@pytest.mark.parametrize("choice", sorted(set(CHOICES) - {"oracle"}))
def test_no_click_is_known_before_it_happens(choice: str) -> None:
    events, bounds = made()
    for end, lesson in zip(bounds[1:], lessons(choice, events, bounds), strict=True):
        now = events.shown[end - 1]
        assert (lesson.rows < end).all() and len(lesson.rows) == len(lesson.labels)
        assert (events.clicked[lesson.rows[lesson.labels > 0.5]] <= now).all()


def test_the_oracle_trains_every_row_once_with_its_final_label() -> None:
    events, bounds = made()
    found = list(lessons("oracle", events, bounds))
    assert np.array_equal(np.concatenate([lesson.rows for lesson in found]), np.arange(500))
    assert np.array_equal(np.concatenate([lesson.labels for lesson in found]) > 0.5, events.clicked < NEVER)


def test_ignoring_trains_every_row_once_and_loses_late_clicks() -> None:
    events, bounds = made()
    found = list(lessons("ignore", events, bounds))
    assert np.array_equal(np.concatenate([lesson.rows for lesson in found]), np.arange(500))
    assert 0 < sum(lesson.labels.sum() for lesson in found) < (events.clicked < NEVER).sum()


def test_waiting_trains_each_row_once_when_its_wait_has_ended() -> None:
    events, bounds = made()
    found = list(lessons("wait", events, bounds))
    rows = np.concatenate([lesson.rows for lesson in found])
    assert np.array_equal(rows, np.arange(len(rows)))
    assert (events.shown[rows] + events.wait <= events.shown[-1]).all() and len(rows) < 500
    for end, lesson in zip(bounds[1:], found, strict=True):
        assert (events.shown[lesson.rows] + events.wait <= events.shown[end - 1]).all()
        within = events.clicked[lesson.rows] - events.shown[lesson.rows] <= events.wait
        assert np.array_equal(lesson.labels > 0.5, within)


def test_fake_negatives_come_once_and_their_clicks_once() -> None:
    events, bounds = made()
    found = list(lessons("fake_negative", events, bounds))
    rows, labels = (np.concatenate([getattr(lesson, name) for lesson in found]) for name in ("rows", "labels"))
    assert np.array_equal(rows[labels < 0.5], np.arange(500))
    known = np.flatnonzero(events.clicked <= events.shown[-1])
    assert np.array_equal(np.sort(rows[labels > 0.5]), known)


def test_the_weighted_loss_of_fake_negatives_is_smallest_at_the_final_click_rate() -> None:
    clicked = torch.rand(200_000, generator=torch.Generator().manual_seed(0)) < 0.3
    labels = torch.cat([torch.zeros(len(clicked)), torch.ones(int(clicked.sum()))])
    logit = torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.SGD([logit], lr=1.0)
    for _ in range(200):
        logits = logit.expand(len(labels))
        loss = (cross_entropy(logits, labels) * fake_negative_weights(logits.detach(), labels)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(torch.sigmoid(logit.detach())) == pytest.approx(float(clicked.float().mean()), abs=0.005)


def test_an_unknown_choice_is_named() -> None:
    with pytest.raises(ValueError, match="hope"):
        next(lessons("hope", *made()))
