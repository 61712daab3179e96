"""LambdaRank on gradient-boosted trees (Burges, 2010; Ke et al., 2017), which orders the candidates of a request.

A model is stored in LightGBM's text format, so that nothing is unpickled. Training uses one thread and a fixed seed, so
that equal arguments give equal bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import quote, unquote

import numpy as np
from numpy.typing import NDArray

from ml.catalog.ranking import LambdaRankOptions
from ml.compute.openmp import load_openmp
from ml.models.tree_scores import TreeScores

load_openmp()
import lightgbm as lgb  # noqa: E402


class LambdaRank:
    """A trained model.

    Args:
        text: LightGBM's text format.

    Raises:
        ValueError: The text is not in this format.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> signals = rng.random((400, 2), np.float32)
        >>> taken = np.zeros(400, np.bool_)
        >>> taken[signals[:, 0].reshape(100, 4).argmax(1) + 4 * np.arange(100)] = True
        >>> options = LambdaRankOptions(trees=5, min_leaf_rows=5, signal_share=1.0)
        >>> model = LambdaRank.train(signals, taken, np.arange(0, 401, 4), ("share", "noise"), options)
        >>> bool(np.diff(model.scores(np.array([[0.1, 0.5], [0.9, 0.5]], np.float32)))[0] > 0)
        True
    """

    def __init__(self, text: str) -> None:
        self.text = text
        try:
            self._booster = lgb.Booster(model_str=text)
        except lgb.basic.LightGBMError as error:
            raise ValueError(f"not a model of LightGBM: {error}") from error
        self._trees = TreeScores.of(self._booster.dump_model())

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the signals, in the order of the columns."""
        return tuple(map(unquote, self._booster.feature_name()))

    @classmethod
    def train(
        cls,
        signals: NDArray[np.float32],
        taken: NDArray[np.bool_],
        offsets: NDArray[np.int64],
        names: Sequence[str],
        options: LambdaRankOptions | None = None,
    ) -> LambdaRank:
        """Train on candidate lists.

        Args:
            signals: float32 [R, S].
            taken: bool [R]. Lists in which nothing was taken are ignored.
            offsets: int64 [B + 1], the list of request b is `[offsets[b], offsets[b + 1])`.
            names: Names of the S signals.
            options: Settings of the trees.

        Raises:
            ValueError: Nothing was taken in any list.
        """
        # (LightGBM refuses punctuation in names, and changes blanks)
        options, sizes = options or LambdaRankOptions(), np.diff(offsets)
        held = np.add.reduceat(np.r_[taken, False], offsets[:-1])[: len(sizes)] > 0
        useful = held & (sizes > 1)
        if not useful.any():
            raise ValueError("no candidate list has an item that was taken, so there is nothing to learn")
        kept = np.repeat(useful, sizes)
        parameters = {
            "objective": "lambdarank",
            "lambdarank_truncation_level": options.truncation,
            "label_gain": [0, 1],
            "learning_rate": options.learning_rate,
            "num_leaves": options.leaves,
            "min_data_in_leaf": options.min_leaf_rows,
            "feature_fraction": options.signal_share,
            "max_bin": 63,
            "seed": options.seed,
            "deterministic": True,
            "force_row_wise": True,
            "num_threads": 1,
            "verbose": -1,
        }
        data = lgb.Dataset(
            signals[kept],
            taken[kept].astype(np.int8),
            group=sizes[useful],
            feature_name=[quote(name, safe="") for name in names],
            params={"verbose": -1},
        )
        return cls(lgb.train(parameters, data, options.trees).model_to_string(importance_type="gain"))

    def scores(self, signals: NDArray[np.float32]) -> NDArray[np.float32]:
        """Score N candidates by their signals [N, S]. Returns float32 [N]; only their order has a meaning."""
        if not len(signals):
            return np.zeros(0, np.float32)
        if self._trees is None:
            return np.asarray(self._booster.predict(signals, num_threads=1), np.float32)
        return self._trees.scores(signals).astype(np.float32)

    def contributions(self, signals: NDArray[np.float32]) -> NDArray[np.float64]:
        """Attribute scores to signals by TreeSHAP (Lundberg et al., 2018). Returns float64 [N, S]."""
        return np.asarray(self._booster.predict(signals, num_threads=1, pred_contrib=True))[:, :-1]
