"""The next suggestion of a study."""

from __future__ import annotations

import numpy as np

from ml.tuning.definition import Study, Value
from ml.tuning.engine.duplicates import Taken
from ml.tuning.engine.initial import initial_point, is_initial
from ml.tuning.engine.sampling import random_points
from ml.tuning.engine.space import SearchSpace


def suggest(study: Study) -> dict[str, Value]:
    """Return what to try next.

    The suggestion is in the space, satisfies its constraints and conditions, and is neither open nor has a result. The same
    study gives the same suggestion.

    Args:
        study: The space, the metrics, results and open suggestions.

    Returns:
        A value for each conditional, and for each parameter whose conditions are met.

    Raises:
        Exhausted: If every point of a discrete space has a result or is open.
        NoFeasiblePoint: If the linear constraints exclude every point.

    Example:
        >>> from ml.tuning.definition import Metric, Parameter, Space, Study
        >>> space = Space((Parameter("layers", "int", low=1, high=4),))
        >>> suggest(Study(space, (Metric("auc"),), open=({"layers": 1}, {"layers": 2}, {"layers": 4})))
        {'layers': 3}
    """
    space = SearchSpace(study.space)
    taken = Taken(space, [*(one.assignments for one in study.observations), *study.open])
    if study.kind == "grid":
        return taken.next_free()
    rng = np.random.default_rng([study.seed, len(study.observations), len(study.open)])
    if study.kind == "offline" and is_initial(study):
        return taken.free(initial_point(space, study), rng)
    return taken.free(random_points(space, 1, rng)[0], rng)
