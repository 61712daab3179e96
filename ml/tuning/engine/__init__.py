"""The search engine: suggestions for an experiment, and analyses of its results. Everything is a pure function of a study."""

from ml.tuning.engine.constraints import NoFeasiblePoint
from ml.tuning.engine.duplicates import Exhausted
from ml.tuning.engine.front import feasible, front, knee
from ml.tuning.engine.stagnation import stopping_reasons
from ml.tuning.engine.suggestions import suggest

__all__ = ["Exhausted", "NoFeasiblePoint", "feasible", "front", "knee", "stopping_reasons", "suggest"]
