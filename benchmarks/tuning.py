"""Quality of the tuning engine: 40 trials of two-metric problems with thresholds, against random search and Optuna's samplers.

Optuna's samplers are used as its documentation shows, with thresholds as constraints. All sides have the same seeds and
the same noise. `python -m benchmarks.tuning SEEDS FIRST` prints the paired differences, too, for seeds from FIRST on.
"""

from __future__ import annotations

import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import optuna
import torch
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from benchmarks._tuning_problems import Problem, branin_currin, c2_dtlz2, dlrm
from benchmarks.result import Result
from ml.tuning.definition import Observation, Parameter, Study, Value
from ml.tuning.engine import suggest
from ml.tuning.engine.front import feasible, hypervolume, losses, optimized

TRIALS, SEEDS = 40, 3
PROBLEMS = (branin_currin, c2_dtlz2, dlrm)
Side = Callable[[Problem, int], tuple[list[Observation], list[float]]]
"""Runs a problem with a seed, and returns the results and the seconds of each suggestion."""

UNITS = {"auc": 0.001, "seconds": 1000.0}  # of constraints, so that Optuna sees values of the order of one


@dataclass(frozen=True)
class Score:
    """What one run of a problem reached.

    Attributes:
        feasible: Trials that met all thresholds.
        hypervolume: Share of the box between the thresholds and the problem's best values that the front dominates.
        seconds: Median time of a suggestion.
        slowest: Longest time of a suggestion.
    """

    feasible: int
    hypervolume: float
    seconds: float
    slowest: float


def run() -> list[Result]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        scores = dict(compare(SEEDS))
    finally:
        torch.set_num_threads(threads)
    results = []
    for problem, sides in scores.items():
        means = {side: statistics.fmean(score.hypervolume for score in runs) for side, runs in sides.items()}
        counts = {side: statistics.fmean(score.feasible for score in runs) for side, runs in sides.items()}
        best = max((side for side in means if side != "ours"), key=means.__getitem__)
        note = f"random {means['random']:.3f}; feasible trials {counts['ours']:.1f}, {best} {counts[best]:.1f}"
        name = f"Tuning {problem}, {TRIALS} trials, {SEEDS} seeds"
        results.append(Result(name, "hypervolume", means["ours"], max(means[best], 1e-9), f"Optuna's {best}", note=note))
    ours = [score for sides in scores.values() for score in sides["ours"]]
    theirs = [score for sides in scores.values() for score in sides["GPSampler"]]
    mine, other = (statistics.median(score.seconds for score in runs) for runs in (ours, theirs))
    note = f"longest {max(score.slowest for score in ours):.2f} s; Optuna's {max(score.slowest for score in theirs):.2f} s"
    return [*results, Result("Suggestions on one core", "per second", 1 / mine, 1 / other, "Optuna's GPSampler", note=note)]


def compare(seeds: int, first: int = 0) -> Iterator[tuple[str, dict[str, list[Score]]]]:
    """Yield each problem with the scores of all sides, one for each of `seeds` seeds from `first` on."""
    warnings.simplefilter("ignore")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    for problem in (make() for make in PROBLEMS):
        yield (
            problem.name,
            {name: [_score(problem, *ask(problem, first + n)) for n in range(seeds)] for name, ask in SIDES.items()},
        )


def _ours(problem: Problem, seed: int) -> tuple[list[Observation], list[float]]:
    noise, tried, taken = np.random.default_rng([seed, 7]), list[Observation](), list[float]()
    for _ in range(TRIALS):
        began = time.perf_counter()
        found = suggest(Study(problem.space, problem.metrics, tuple(tried), budget=TRIALS, seed=seed))
        taken.append(time.perf_counter() - began)
        tried.append(Observation(found, problem.measure(found, noise)))
    return tried, taken


def _optuna(
    sampler: Callable[[int], optuna.samplers.BaseSampler],
) -> Callable[[Problem, int], tuple[list[Observation], list[float]]]:
    def run(problem: Problem, seed: int) -> tuple[list[Observation], list[float]]:
        noise, tried, taken = np.random.default_rng([seed, 7]), list[Observation](), list[float]()
        chosen = optimized(problem.metrics)
        study = optuna.create_study(sampler=sampler(seed), directions=[metric.objective for metric in chosen])
        distributions = {parameter.name: _distribution(parameter) for parameter in problem.space.parameters}
        grids = {parameter.name: parameter.grid for parameter in problem.space.parameters if parameter.grid}
        for _ in range(TRIALS):
            began = time.perf_counter()
            trial = study.ask(distributions)
            taken.append(time.perf_counter() - began)
            found: Mapping[str, Value] = {n: grids[n][v] if n in grids else v for n, v in trial.params.items()}
            values = problem.measure(found, noise)
            for metric in problem.metrics:
                if metric.threshold is not None:
                    gap = (values[metric.name] - metric.threshold) * (1 if metric.objective == "minimize" else -1)
                    trial.set_constraint(metric.name, gap / UNITS.get(metric.name, 1.0))
            study.tell(trial, [values[metric.name] for metric in chosen])
            tried.append(Observation(found, values))
        return tried, taken

    return run


SIDES = {
    "ours": _ours,
    "random": _optuna(lambda seed: optuna.samplers.RandomSampler(seed=seed)),
    "TPESampler": _optuna(lambda seed: optuna.samplers.TPESampler(seed=seed, multivariate=True)),
    "GPSampler": _optuna(lambda seed: optuna.samplers.GPSampler(seed=seed)),
}


def _distribution(parameter: Parameter) -> BaseDistribution:
    if parameter.kind == "categorical":
        return CategoricalDistribution(parameter.categories)
    if parameter.grid:
        return IntDistribution(0, len(parameter.grid) - 1)
    low, high = parameter.low or 0, parameter.high or 0
    return IntDistribution(int(low), int(high)) if parameter.kind == "int" else FloatDistribution(low, high, log=parameter.log)


def _score(problem: Problem, tried: list[Observation], taken: list[float]) -> Score:
    met = [one for one in tried if feasible(problem.metrics, one)]
    signs = [1.0 if metric.objective == "minimize" else -1.0 for metric in optimized(problem.metrics)]
    reference = [sign * float(metric.threshold or 0) for sign, metric in zip(signs, optimized(problem.metrics), strict=True)]
    box = np.prod([high - sign * low for high, sign, low in zip(reference, signs, problem.best, strict=True)])
    area = hypervolume(losses(problem.metrics, met), reference)
    return Score(len(met), area / float(box), statistics.median(taken), max(taken))


def main(seeds: int = 10, first: int = 0) -> None:
    torch.set_num_threads(1)
    for problem, sides in compare(seeds, first):
        for side, runs in sides.items():
            line = f"{problem:14} {side:10} feasible {statistics.fmean(r.feasible for r in runs):5.1f}"
            line += f"  hypervolume {statistics.fmean(r.hypervolume for r in runs):.4f}"
            line += f"  seconds {statistics.median(r.seconds for r in runs):.2f}, longest {max(r.slowest for r in runs):.2f}"
            if side != "ours":
                pairs = list(zip(sides["ours"], runs, strict=True))
                for name, gaps in (
                    ("feasible", [a.feasible - b.feasible for a, b in pairs]),
                    ("hypervolume", [a.hypervolume - b.hypervolume for a, b in pairs]),
                ):
                    error = statistics.stdev(gaps) / len(gaps) ** 0.5
                    line += f"  ours - this: {name} {statistics.fmean(gaps):+.3f} ± {error:.3f}"
            print(line, flush=True)


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:3]))
