"""LambdaRank learns which candidates are taken, gives equal bytes, and predicts the same after it is stored."""

from __future__ import annotations

import numpy as np
import pytest

from ml.catalog.ranking import LambdaRankOptions
from ml.models.lambdarank import LambdaRank

OPTIONS = LambdaRankOptions(trees=8, min_leaf_rows=5, signal_share=1.0)


def lists(count: int = 200, size: int = 6) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    signals = rng.random((count * size, 3), np.float32)
    taken = np.zeros(count * size, np.bool_)
    taken[signals[:, 1].reshape(count, size).argmax(1) + size * np.arange(count)] = True
    return signals, taken, np.arange(0, count * size + 1, size)


def trained(options: LambdaRankOptions = OPTIONS) -> LambdaRank:
    return LambdaRank.train(*lists(), ("a", "b", "c"), options)


def test_it_ranks_by_the_signal_that_decides() -> None:
    signals, taken, offsets = lists()
    first = trained().scores(signals).reshape(-1, 6).argmax(1) + offsets[:-1]
    assert taken[first].mean() > 0.9


def test_equal_arguments_give_equal_bytes_and_another_seed_others() -> None:
    some = OPTIONS.model_copy(update={"signal_share": 0.4})
    assert trained(some).text == trained(some).text
    assert trained(some).text != trained(some.model_copy(update={"seed": 5})).text


def test_a_stored_model_scores_the_same() -> None:
    signals, model = lists()[0], trained()
    again = LambdaRank(model.text)
    assert again.names == ("a", "b", "c") and again.text == model.text
    np.testing.assert_array_equal(again.scores(signals), model.scores(signals))
    assert again.scores(signals[:0]).shape == (0,)


def test_contributions_add_up_to_the_score() -> None:
    signals, model = lists()[0][:50], trained()
    rest = model.scores(signals) - model.contributions(signals).sum(1)
    np.testing.assert_allclose(rest, rest[0], atol=1e-5)
    assert np.abs(model.contributions(signals)).mean(0).argmax() == 1


def test_lists_in_which_nothing_was_taken_are_ignored() -> None:
    signals, taken, offsets = lists()
    more = np.concatenate([signals, signals[:12]]), np.concatenate([taken, np.zeros(12, np.bool_)])
    assert LambdaRank.train(*more, np.append(offsets, [1206, 1212]), ("a", "b", "c"), OPTIONS).text == trained().text
    with pytest.raises(ValueError, match="nothing to learn"):
        LambdaRank.train(signals, np.zeros_like(taken), offsets, ("a", "b", "c"), OPTIONS)
    with pytest.raises(ValueError, match="nothing to learn"):
        LambdaRank.train(signals[:0], taken[:0], np.zeros(1, np.int64), ("a", "b", "c"), OPTIONS)


@pytest.mark.parametrize("names", [("lift_device type", "a:b", 'c"[1],{}'), ("größe", "b", "%20")])
def test_names_of_signals_are_kept_as_they_are(names: tuple[str, ...]) -> None:
    model = LambdaRank.train(*lists(), names, OPTIONS)
    assert model.names == LambdaRank(model.text).names == names
