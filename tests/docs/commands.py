"""Runs the commands of the documentation, or only checks their arguments for a stated reason.

A new kind of command fails the tests until it has an entry in `COMMANDS`.
"""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path

import dagster as dg
from click.testing import CliRunner

from ml.catalog.load import load_catalog
from tests.helpers.markdown import blocks_of
from tests.helpers.paths import ROOT
from tests.helpers.workplace import DAYS, Workplace

MAKEFILE = (ROOT / "Makefile").read_text()
# Targets of the Makefile, and why the tests do not run them.
TARGETS = {
    "demo": "takes minutes on real logs; its module runs, on the built-in log and on logs that a page writes",
    "tune": "takes minutes; a test runs its module",
    "online": "takes minutes; a test runs its module",
    "rollback": "needs two days; a test runs its module beside a service",
    "join": "reads a stream until it is stopped; a test runs its module",
    "test": "would run these tests",
    "test-fast": "would run these tests",
    "soak": "takes hours",
    "store": "follows a stream until it is stopped; a test runs its module",
    "serve": "serves until it is stopped; a test runs its module",
    "loop": "takes minutes; a test runs its processes",
    "sigopt": "serves until it is stopped; a test runs its module",
    "ui": "starts a server",
    "bench": "takes minutes",
    "docs": "tests/docs/test_site.py runs its command",
    "check": "continuous integration runs it beside the tests",
    "clean": "deletes what the other commands read",
}


def commands_of(block: str) -> Iterator[tuple[dict[str, str], list[str]]]:
    """Yield the commands of a shell block: variables that are set in front of the command, and its words."""
    for line in block.replace("\\\n", " ").splitlines():
        for part in line.split(" && "):
            variables, words = {}, shlex.split(part, comments=True)
            while words and re.match(r"[A-Z_]+=", words[0]):
                name, _, value = words.pop(0).partition("=")
                variables[name] = value
            if words:
                yield variables, words


def check_target(words: list[str]) -> dict[str, str]:
    """Check that a target of make, its variables and its benchmarks exist, and return the variables."""
    target, given = words[0], dict(word.split("=", 1) for word in words[1:])
    assert target in TARGETS and re.search(rf"^{target}:.*## ", MAKEFILE, re.MULTILINE), target
    assert all(re.search(rf"^{name} \?=", MAKEFILE, re.MULTILINE) for name in given), given
    if chosen := given.get("ONLY", "").strip("."):
        from benchmarks.__main__ import names

        assert set(chosen.split()) <= set(names())
    return given


def selected(selection: str, days: list[str]) -> None:
    """Check that a selection has assets, and that each of them has the days."""
    from orchestration.definitions import defs

    graph = defs().get_repository_def().asset_graph
    keys = dg.AssetSelection.from_string(selection).resolve(graph)
    assert keys, selection
    for key in keys:
        partitions = graph.get(key).partitions_def
        assert not days or (partitions is not None and set(days) <= set(partitions.get_partition_keys())), (key, days)


def _make(words: list[str], work: Workplace) -> None:
    given = check_target(words[1:])
    assert given.get("DATASET", "synthetic") in load_catalog(work.catalog)
    if (work.folder / given.get("LOGS", "-")).is_dir():
        printed = work.run(sys.executable, "-m", "orchestration.demo", given["DATASET"], "--logs", given["LOGS"])
        assert "2 of 2 days ran" in printed


def _source(words: list[str], work: Workplace) -> None:
    printed = work.run("bash", "-c", f"set -eu; unset DAGSTER_HOME; {shlex.join(words)}; env")
    assert f"DAGSTER_HOME={work.folder}" in printed and "OMP_WAIT_POLICY=PASSIVE" in printed


def _python(words: list[str], work: Workplace) -> None:
    assert words[1] == "-m", words
    MODULES[words[2]](words[3:], work)


def _dagster(words: list[str], work: Workplace) -> None:
    """Check selection and partitions against the definitions. One of the commands runs."""
    assert words[1:5] == ["asset", "materialize", "-m", "orchestration.definitions"]
    given = dict(zip(words[5::2], words[6::2], strict=True))
    assert set(given) <= {"--select", "--partition", "--partition-range"}
    days = given.get("--partition-range", given.get("--partition", "")).split("...")
    selected(given["--select"], [day for day in days if day])
    if given["--select"] == "synthetic/evaluation_reports":
        work.run(sys.executable, "-m", "dagster", *words[1:])


def _dg(words: list[str], work: Workplace) -> None:
    """Check the arguments only, because the command does the same as `dagster asset materialize`."""
    assert words[1:3] == ["launch", "--assets"] and words[4] == "--partition"
    selected(words[3], [words[5]])


def _mlflow(words: list[str], work: Workplace) -> None:
    from mlflow.cli import cli

    done = CliRunner().invoke(cli, words[1:], catch_exceptions=False)
    assert done.exit_code == 0, done.output


def _torchrun(words: list[str], work: Workplace) -> None:
    """Parse the arguments only, because `tests/ml/training/test_launch.py` starts processes."""
    from ml.training.launch import main

    assert words[1:5] == ["--nproc-per-node", "2", "-m", "ml.training.launch"]
    params = main.make_context("launch", list(words[5:])).params
    spec = load_catalog(work.catalog)[params["dataset"]]
    assert params["day"] in spec.days() and params["model"] in spec.models


def _inspect(words: list[str], work: Workplace) -> None:
    from ml.artifacts.inspect import main

    done = CliRunner().invoke(main, words, catch_exceptions=False)
    assert done.exit_code == 0 and "rows" in done.output, done.output


def _replay(words: list[str], work: Workplace) -> None:
    """Run on days that are done. With --redo or --fresh, which would take long, only parse the arguments."""
    from orchestration import replay

    if {"--redo", "--fresh"} & set(words):
        params = replay.main.make_context("replay", list(words)).params
        assert params["dataset"] in load_catalog(work.catalog) and {params["first"], params["last"]} <= {*DAYS, None}
    else:
        assert "0 of 3 days ran" in work.run(sys.executable, "-m", "orchestration.replay", *words)


def _split(words: list[str], work: Workplace) -> None:
    """Run on a day that is done."""
    assert "joined rows" in work.run(sys.executable, "-m", "orchestration.split", *words)


def _sketch(words: list[str], work: Workplace) -> None:
    """Run on the folder that the page writes."""
    assert "name: visits" in work.run(sys.executable, "-m", "orchestration.sketch", *words)


def _advise(words: list[str], work: Workplace) -> None:
    """Run. The file of rules is the one on the page."""
    if "--rules" in words:
        file = work.folder / words[words.index("--rules") + 1]
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(next(b for b in blocks_of(ROOT / "docs" / "advisor.md") if b.text.startswith(f"# {words[-1]}")).text)
    assert f"for {words[0]}" in work.run(sys.executable, "-m", "orchestration.advise", *words)


def _recipes(words: list[str], work: Workplace) -> None:
    """Run. The file that is imported is the one on the page."""
    if words[0] == "import":
        texts = [block.text for block in blocks_of(ROOT / "docs" / "tuning.md")]
        (work.folder / words[1]).write_text(next(text for text in texts if text.startswith(f"# {words[1]}")))
    assert "observation_budget" in (said := work.run(sys.executable, "-m", "orchestration.recipes", *words)) or "wrote" in said


def _reference(module: str) -> Callable[[list[str], Workplace], None]:
    def check(words: list[str], work: Workplace) -> None:
        """Write another file, which must be equal to the committed one."""
        made = work.folder / "reference.md"
        work.run(sys.executable, "-m", module, str(made))
        assert made.read_text() == (ROOT / words[0]).read_text(), f"python -m {module} {words[0]}"

    return check


def _golden(words: list[str], work: Workplace) -> None:
    """Look up the module only, because the command overwrites a file that another test compares with."""
    module = import_module("tests.orchestration.test_definitions")
    assert not words and '__name__ == "__main__"' in Path(str(module.__file__)).read_text()


def _pytest(words: list[str], work: Workplace) -> None:
    """Look up the files only, because these tests run anyway."""
    assert words and all((ROOT / word).exists() for word in words)


MODULES: dict[str, Callable[[list[str], Workplace], None]] = {
    "ml.artifacts.inspect": _inspect,
    "ml.catalog.reference": _reference("ml.catalog.reference"),
    "ml.recipes.reference": _reference("ml.recipes.reference"),
    "orchestration.advise": _advise,
    "orchestration.recipes": _recipes,
    "orchestration.replay": _replay,
    "orchestration.split": _split,
    "orchestration.sketch": _sketch,
    "pytest": _pytest,
    "tests.orchestration.test_definitions": _golden,
}


def _curl(words: list[str], work: Workplace) -> None:
    """Check the body against the form of the route, because `tests/orchestration/test_serve.py` calls the service."""
    from ml.serving.forms import RecommendRequest

    assert words[2].endswith(":8715/recommend")
    asked = RecommendRequest.model_validate_json(words[words.index("-d") + 1])
    assert set(asked.context) <= set(load_catalog(work.catalog)["synthetic"].column_types)


COMMANDS: dict[str, Callable[[list[str], Workplace], None]] = {
    "make": _make,
    ".": _source,
    ".venv/bin/python": _python,
    ".venv/bin/dagster": _dagster,
    ".venv/bin/dg": _dg,
    ".venv/bin/mlflow": _mlflow,
    ".venv/bin/torchrun": _torchrun,
    "curl": _curl,
}
