"""Update kernels. Each row is updated once per batch, by the sum of the gradients of its occurrences."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np

from ml.compute.kernel_cache import jit
from ml.embeddings.collisionless.lookup import FAST
from ml.embeddings.collisionless.prefetch import AHEAD, prefetch
from ml.embeddings.collisionless.row_layout import SLOT, STEP, WEIGHTS
from ml.embeddings.optimizers import ADAGRAD, ADAM, FTRL, ROWWISE, SGD


@jit(error_model="numpy")
def init_state(floats, row, dim, kind, constants):  # type: ignore[no-untyped-def]
    """Set the optimizer state of a row to the state of a new row with the same weights."""
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
            # z is chosen so that FTRL's update rule gives the current weight.
            n = constants[1]
            floats[row, first + d] = n
            scale = constants[4] + np.sqrt(n) + constants[6]
            weight = floats[row, WEIGHTS + d]
            floats[row, first + dim + d] = -weight * scale - np.sign(weight) * constants[5]


@jit(error_model="numpy")
def init_states(floats, rows, dim, kind, constants):  # type: ignore[no-untyped-def]
    """Set the optimizer state of rows, int64 [N], to the state of new rows with the same weights."""
    for row in rows:
        init_state(floats, row, dim, kind, constants)


# This function is at module level, not in `trainer`, because Numba does not cache a kernel that closes over a function.
@jit(error_model="numpy", fastmath=FAST, inline="always")
def _apply(floats, row, g, constants, lr, dim, kind):  # type: ignore[no-untyped-def]
    """Apply the gradient `g`, float32 [dim], to a row, uint64. `dim` and `kind` are compile-time constants in `trainer`."""
    first, second = WEIGHTS + dim, WEIGHTS + 2 * dim
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
            z = floats[row, np.uint64(second + d)] + lr * g[d] - (np.sqrt(total) - np.sqrt(n)) * w
            floats[row, np.uint64(first + d)], floats[row, np.uint64(second + d)] = total, z
            beyond = abs(z) - l1
            scale = beta + np.sqrt(total) + l2
            floats[row, np.uint64(WEIGHTS + d)] = -np.sign(z) * beyond / scale if beyond > 0 else np.float32(0)


@lru_cache(maxsize=32)
def trainer(dim: int, kind: int) -> Callable[..., int]:
    """Return the kernel that updates rows, compiled for a dimension and an optimizer.

    The kernel is update(floats, words, grad, offsets, features, examples, lines, shares, places, distinct, summed, found,
    constants, lr, step, mark) -> touched. `grad` is float32 [B * F, dim]; the other arrays are fields of `LookupContext` and of
    one of its partitions. The kernel applies one optimizer step to each of the first `found` rows of `distinct`, and then moves
    the rows whose step was not later than `mark` to the front of `distinct`. `touched` is their number.

    Gradients are summed in memory order into `summed`, where frequent rows stay cached. A loop over rows instead would wait for
    a gradient from memory at each occurrence.

    Args:
        dim: Number of weights in a row, D.
        kind: Code of the optimizer (`ml.embeddings.optimizers.CODES`).
    """

    @jit(nogil=True, error_model="numpy", fastmath=FAST)
    def update(  # type: ignore[no-untyped-def]
        floats, words, grad, offsets, features, examples, lines, shares, places, distinct, summed, found,
        constants, lr, step, mark,
    ):  # fmt: skip
        touched = 0
        summed[:found] = 0
        for f in range(len(features)):
            start, end = offsets[features[f] * examples], offsets[(features[f] + 1) * examples]
            for at in range(start, end):
                i = np.uint64(at)
                if at + AHEAD < end:
                    prefetch(grad, np.uint64(lines[i + np.uint64(AHEAD)]), np.uint64(0))
                if places[i] < 0:
                    continue
                place, line, share = np.uint64(places[i]), np.uint64(lines[i]), shares[i]
                for d in range(dim):
                    summed[place, np.uint64(d)] += share * grad[line, np.uint64(d)]
        for n in range(found):
            if n + AHEAD < found:
                soon = np.uint64(distinct[np.uint64(n + AHEAD)])
                prefetch(floats, soon, np.uint64(0))
                prefetch(floats, soon, np.uint64(WEIGHTS + dim - 1))
            row = np.uint64(distinct[np.uint64(n)])
            _apply(floats, row, summed[n], constants, lr, dim, kind)
            if words[row, np.uint64(STEP)] <= mark:
                distinct[np.uint64(touched)] = row
                touched += 1
            words[row, np.uint64(STEP)] = step
        return touched

    return update
