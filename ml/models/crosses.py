"""Cross-product features: each combination of two ids becomes one id (Cheng et al., 2016, section 3.1)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from ml.compute.kernel_cache import jit
from ml.hashing import GOLDEN, mix64


def cross_name(pair: tuple[str, str]) -> str:
    """Return the name of the crossed feature of a pair: `a*b`."""
    return "*".join(pair)


def with_crosses(sparse: KeyedJaggedTensor, pairs: Sequence[tuple[str, str]]) -> KeyedJaggedTensor:
    """Append a crossed feature for each pair of features.

    Args:
        sparse: F keys, B rows.
        pairs: Pairs of features that have exactly one id in each row.

    Returns:
        F + len(pairs) keys: the keys of `sparse`, then `a*b` for each pair, with one id in each row. Without pairs, the
        result is `sparse` itself.

    Raises:
        ValueError: A feature of a pair has more or fewer than one id in some row.

    Example:
        >>> sparse = KeyedJaggedTensor(["a", "b"], torch.tensor([1, 2, 7, 7]), lengths=torch.ones(4, dtype=torch.int64))
        >>> with_crosses(sparse, [("a", "b")]).keys()
        ['a', 'b', 'a*b']
    """
    if not pairs:
        return sparse
    rows = sparse.stride()
    crossed = torch.empty(len(pairs) * rows, dtype=torch.int64)
    for i, pair in enumerate(pairs):
        first, second = (_single(sparse, name, rows) for name in pair)
        _cross(first, second, crossed[i * rows : (i + 1) * rows].numpy())
    return KeyedJaggedTensor(
        [*sparse.keys(), *map(cross_name, pairs)],
        torch.cat((sparse.values(), crossed)),
        lengths=torch.cat((sparse.lengths(), sparse.lengths().new_ones(len(crossed)))),
        stride=rows,
    )


def _single(sparse: KeyedJaggedTensor, name: str, rows: int) -> np.ndarray:
    one = sparse[name]
    if not bool((one.lengths() == 1).all()):
        raise ValueError(f"crosses: {name} does not have one id in every row; only single-valued features can be crossed")
    return one.values().numpy()


@jit
def _cross(first, second, out):  # type: ignore[no-untyped-def]
    for i in range(len(out)):
        mixed = mix64(np.uint64(first[i]) + np.uint64(GOLDEN))
        out[i] = np.int64(mix64((mixed ^ np.uint64(second[i])) + np.uint64(GOLDEN)))
