"""From the gradient of bags to their rows: each row once, by the sum over its occurrences in the batch."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numba as nb
import numpy as np

from ml.embeddings.optimizers import updater
from ml.embeddings.pooling import FAST
from ml.embeddings.prefetch import AHEAD, prefetch
from ml.embeddings.records import VERSION, WEIGHTS


@lru_cache(maxsize=32)
def trainer(dim: int, kind: int) -> Callable[..., None]:
    """update(floats, words, grad, distinct, last, found, lines, shares, before, constants, lr, version): a step of the
    optimizer on each of the first `found` rows of `distinct`.

    grad: float32 [B * F, dim]. The rest are `pooling.Notes`.
    """
    apply = updater(dim, kind)

    @nb.njit(cache=True, nogil=True, error_model="numpy", fastmath=FAST)
    def update(floats, words, grad, distinct, last, found, lines, shares, before, constants, lr, version):  # type: ignore[no-untyped-def]
        summed = np.empty(dim, np.float32)
        for n in range(found):
            if n + AHEAD < found:
                later = np.uint64(n + AHEAD)
                soon = np.uint64(distinct[later])
                prefetch(floats, soon, np.uint64(0))
                prefetch(floats, soon, np.uint64(WEIGHTS + dim - 1))
                prefetch(grad, np.uint64(lines[np.uint64(last[later])]), np.uint64(0))
            i = np.uint64(last[np.uint64(n)])
            line, share = np.uint64(lines[i]), shares[i]
            for d in range(dim):
                summed[d] = share * grad[line, np.uint64(d)]
            earlier = before[i]
            while earlier >= 0:
                i = np.uint64(earlier)
                line, share = np.uint64(lines[i]), shares[i]
                for d in range(dim):
                    summed[d] += share * grad[line, np.uint64(d)]
                earlier = before[i]
            row = np.uint64(distinct[np.uint64(n)])
            apply(floats, row, summed, constants, lr)
            words[row, np.uint64(VERSION)] = version

    return update
