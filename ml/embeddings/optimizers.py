"""Optimizers of table rows, applied in the backward pass to the summed gradient of one row at a time (by `updates`).

| kind             | update of weights w by gradient g, with state s                             | source                      |
|------------------|-----------------------------------------------------------------------------|-----------------------------|
| sgd              | w -= lr g                                                                   |                             |
| adagrad          | s += g^2; w -= lr g / (sqrt(s) + eps)                                       | Duchi et al. 2011           |
| rowwise_adagrad  | s += mean(g^2), one s a row; w -= lr g / (sqrt(s) + eps)                    | FBGEMM                      |
| adam             | m, v, corrected by the row's own number of updates; w -= lr m/(sqrt(v)+eps) | Kingma and Ba 2015          |
| ftrl             | d = sqrt(n + g^2) - sqrt(n); n += g^2; z += lr g - d w; w from z, n, l1, l2 | McMahan et al. 2013, alg. 1 |

FTRL's z is McMahan's times the learning rate alpha, and so are l1 and l2 here: w = -sign(z) max(|z| - l1, 0) / (beta + sqrt(n)
+ l2). At a constant rate that is the same; a rate that changes scales the steps to come, and moves nothing by itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

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
