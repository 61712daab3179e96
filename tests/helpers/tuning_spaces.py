"""Random spaces of experiments, for property tests of the tuning engine."""

from __future__ import annotations

from hypothesis import strategies as st

from ml.tuning.definition import Conditional, LinearConstraint, Parameter, Prior, Space

ARCHITECTURES = Conditional("architecture", ("dcn", "dot", "mlp"))


@st.composite
def parameters(draw: st.DrawFn, name: str, discrete: bool = False) -> Parameter:
    kind = draw(
        st.sampled_from(("int", "grid", "category") if discrete else ("int", "grid", "category", "double", "log", "prior"))
    )
    conditions = draw(st.sampled_from(({}, {}, {"architecture": ("dcn",)}, {"architecture": ("dot", "mlp")})))
    low = draw(st.integers(-5, 5))
    if kind == "int":
        return Parameter(name, "int", low, low + draw(st.integers(1, 4)), conditions=conditions)
    if kind == "grid":
        grid = tuple(sorted(draw(st.sets(st.integers(1, 50), min_size=2, max_size=4))))
        return Parameter(name, "int", grid[0], grid[-1], grid=grid, conditions=conditions)
    if kind == "category":
        values = tuple("abcd"[: draw(st.integers(2, 4))])
        return Parameter(name, "categorical", categories=values, conditions=conditions)
    if kind == "log":
        return Parameter(name, "double", 1e-5, 1e-5 * 10 ** draw(st.integers(1, 5)), log=True, conditions=conditions)
    prior = None
    if kind == "prior":
        mean, scale = draw(st.floats(-10, 10)), draw(st.floats(0.01, 10))
        beta = Prior("beta", draw(st.floats(0.5, 5)), draw(st.floats(0.5, 5)))
        prior = draw(st.sampled_from((Prior("normal", mean, scale), beta)))
    return Parameter(name, "double", float(low), low + draw(st.floats(0.1, 10)), prior=prior, conditions=conditions)


@st.composite
def spaces(draw: st.DrawFn, discrete: bool = False) -> Space:
    """Spaces of one to five parameters, with conditionals and linear constraints."""
    found = [draw(parameters(f"p{n}", discrete)) for n in range(draw(st.integers(1, 3)))]
    constraints = ()
    if draw(st.booleans()):
        if discrete or draw(st.booleans()):
            found += [Parameter(name, "int", 0, 4) for name in ("u", "v")]
        else:
            found += [Parameter(name, "double", 0.0, 4.0) for name in ("u", "v")]
        weight, threshold = draw(st.sampled_from((-1.0, 0.5, 2.0))), draw(st.sampled_from((0.0, 0.6, 3.0)))
        constraints = (
            LinearConstraint({"u": 1.0, "v": weight}, threshold, draw(st.sampled_from(("less_than", "greater_than")))),
        )
    conditionals = (ARCHITECTURES,) if any(one.conditions for one in found) or draw(st.booleans()) else ()
    return Space(tuple(found), conditionals, constraints)
