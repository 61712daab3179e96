"""Optimizers of table rows. The backward pass applies them to each row's summed gradient.

| kind             | update of weights w by gradient g, with state s                             | source                      |
|------------------|-----------------------------------------------------------------------------|-----------------------------|
| sgd              | w -= lr g                                                                   |                             |
| adagrad          | s += g^2; w -= lr g / (sqrt(s) + eps)                                       | Duchi et al. 2011           |
| rowwise_adagrad  | s += mean(g^2), one s per row; w -= lr g / (sqrt(s) + eps)                  | FBGEMM                      |
| adam             | w -= lr m / (sqrt(v) + eps); bias correction uses the row's update count    | Kingma and Ba 2015          |
| ftrl             | d = sqrt(n + g^2) - sqrt(n); n += g^2; z += lr g - d w; w from z, n, l1, l2 | McMahan et al. 2013, alg. 1 |

FTRL's z, l1 and l2 equal McMahan's values times the learning rate alpha: w = -sign(z) max(|z| - l1, 0) / (beta + sqrt(n) + l2).
With a constant learning rate, the results are equal. A change of the learning rate scales later updates, but does not change
weights by itself.
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
    """An optimizer of table rows and its constants, except the learning rate, which a schedule sets.

    Args:
        kind: Update rule.
        eps: Constant that is added to the square root of an accumulator.
        initial_accumulator: Initial value of Adagrad's accumulators and of FTRL's n.
        beta1: Decay of Adam's first moment.
        beta2: Decay of Adam's second moment.
        beta: FTRL's beta.
        l1: McMahan's l1 times the learning rate.
        l2: McMahan's l2 times the learning rate.

    Example:
        >>> RowOptimizer("adam").words(dim=16)
        32
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
        """Return the number of float32 values of optimizer state that follow a row of `dim` weights."""
        return _STATES[self.kind] * dim

    def constants(self) -> np.ndarray:
        """Return the constants that the kernels read, float32 [8]."""
        given = (self.eps, self.initial_accumulator, self.beta1, self.beta2, self.beta, self.l1, self.l2, 0.0)
        return np.array(given, np.float32)
