"""Optimizers of table rows, applied in the backward pass to the summed gradient of one row at a time.

| kind             | update of weights w by gradient g, with state s                             | source                      |
|------------------|-----------------------------------------------------------------------------|-----------------------------|
| sgd              | w -= lr g                                                                   |                             |
| adagrad          | s += g^2; w -= lr g / (sqrt(s) + eps)                                       | Duchi et al. 2011           |
| rowwise_adagrad  | s += mean(g^2), one s a row; w -= lr g / (sqrt(s) + eps)                    | FBGEMM                      |
| adam             | m, v, corrected by the row's own number of updates; w -= lr m/(sqrt(v)+eps) | Kingma and Ba 2015          |
| ftrl             | n += g^2, z += g - sigma w; w from z by l1 and l2, lr is alpha              | McMahan et al. 2013, alg. 1 |
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numba as nb
import numpy as np

from ml.embeddings.records import SLOT, WEIGHTS

Kind = Literal["sgd", "adagrad", "rowwise_adagrad", "adam", "ftrl"]
CODES: dict[Kind, int] = {"sgd": 0, "adagrad": 1, "rowwise_adagrad": 2, "adam": 3, "ftrl": 4}
SGD, ADAGRAD, ROWWISE, ADAM, FTRL = range(5)
_STATES: dict[Kind, int] = {"sgd": 0, "adagrad": 1, "rowwise_adagrad": 0, "adam": 2, "ftrl": 2}


@dataclass(frozen=True)
class RowOptimizer:
    """Which optimizer, and its constants but for the learning rate, which a schedule sets.

    initial_accumulator: what Adagrad's sums and FTRL's n begin with. beta: FTRL's own.
    """

    kind: Kind = "rowwise_adagrad"
    eps: float = 1e-8
    initial_accumulator: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.999
    beta: float = 1.0
    l1: float = 0.0
    l2: float = 0.0

    def words(self, dim: int) -> int:
        """Words of state beside a row of `dim` weights."""
        return _STATES[self.kind] * dim

    def constants(self) -> np.ndarray:
        """float32 [8], as the kernels take them."""
        given = (self.eps, self.initial_accumulator, self.beta1, self.beta2, self.beta, self.l1, self.l2, 0.0)
        return np.array(given, np.float32)


@nb.njit(cache=True, error_model="numpy")
def begin_state(floats, row, dim, kind, constants, lr):  # type: ignore[no-untyped-def]
    """Set the state of a row whose weights have just been drawn."""
    floats[row, SLOT] = constants[1] if kind == ROWWISE else np.float32(0)
    first = WEIGHTS + dim
    if kind == ADAGRAD:
        for d in range(dim):
            floats[row, first + d] = constants[1]
    elif kind == ADAM:
        for d in range(2 * dim):
            floats[row, first + d] = 0
    elif kind == FTRL:
        for d in range(dim):
            # z such that the weights are what was drawn.
            n = constants[1]
            floats[row, first + d] = n
            scale = (constants[4] + np.sqrt(n)) / lr + constants[6]
            weight = floats[row, WEIGHTS + d]
            floats[row, first + dim + d] = -weight * scale - np.sign(weight) * constants[5]


_FAST = {"reassoc", "contract"}


@lru_cache(maxsize=32)
def updater(dim: int, kind: int) -> Callable[..., None]:
    """apply(floats, row, g, constants, lr): the gradient g, float32 [dim], to a row (uint64), for kernels to call."""
    first, second = WEIGHTS + dim, WEIGHTS + 2 * dim

    @nb.njit(cache=True, error_model="numpy", fastmath=_FAST)
    def apply(floats, row, g, constants, lr):  # type: ignore[no-untyped-def]
        eps, one = constants[0], np.float32(1)
        if kind == ROWWISE:
            squares = np.float32(0)
            for d in range(dim):
                squares += g[d] * g[d]
            total = floats[row, SLOT] + squares / np.float32(dim)
            floats[row, SLOT] = total
            rate = lr / (np.sqrt(total) + eps)
            for d in range(dim):
                floats[row, np.uint64(WEIGHTS + d)] -= rate * g[d]
        elif kind == SGD:
            for d in range(dim):
                floats[row, np.uint64(WEIGHTS + d)] -= lr * g[d]
        elif kind == ADAGRAD:
            for d in range(dim):
                total = floats[row, np.uint64(first + d)] + g[d] * g[d]
                floats[row, np.uint64(first + d)] = total
                floats[row, np.uint64(WEIGHTS + d)] -= lr * g[d] / (np.sqrt(total) + eps)
        elif kind == ADAM:
            updates = floats[row, SLOT] + one
            floats[row, SLOT] = updates
            beta1, beta2 = constants[2], constants[3]
            rate, correction = lr / (one - beta1**updates), one / (one - beta2**updates)
            for d in range(dim):
                m = beta1 * floats[row, np.uint64(first + d)] + (one - beta1) * g[d]
                v = beta2 * floats[row, np.uint64(second + d)] + (one - beta2) * g[d] * g[d]
                floats[row, np.uint64(first + d)], floats[row, np.uint64(second + d)] = m, v
                floats[row, np.uint64(WEIGHTS + d)] -= rate * m / (np.sqrt(v * correction) + eps)
        else:
            beta, l1, l2 = constants[4], constants[5], constants[6]
            for d in range(dim):
                n, w = floats[row, np.uint64(first + d)], floats[row, np.uint64(WEIGHTS + d)]
                total = n + g[d] * g[d]
                z = floats[row, np.uint64(second + d)] + g[d] - (np.sqrt(total) - np.sqrt(n)) / lr * w
                floats[row, np.uint64(first + d)], floats[row, np.uint64(second + d)] = total, z
                beyond = abs(z) - l1
                scale = (beta + np.sqrt(total)) / lr + l2
                floats[row, np.uint64(WEIGHTS + d)] = -np.sign(z) * beyond / scale if beyond > 0 else np.float32(0)

    return apply
