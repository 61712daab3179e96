"""The integration tests of the `sigopt` client, which its wheel installs, against the service as a process of its own.

`hyperopt` and `xgboost` are optional packages of the client. Their tests run where they are installed:
`pip install hyperopt xgboost-cpu`.
"""

from __future__ import annotations

import os
import pkgutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

import pytest
import sigopt

from ml.compute.java import use_java
from tests.helpers.paths import ROOT
from tests.helpers.tuning_process import Server, started

pytestmark = pytest.mark.slow

TESTS = pytest.importorskip("integration_test", reason="the wheel of sigopt has no integration tests for this Python")
MODULES = {  # number of tests that run, and the optional package that they need
    "test_sigopt": (8, None),
    "test_experiment": (1, None),
    "test_hyperopt": (14, "hyperopt"),
    "test_xgboost_run": (16, "xgboost"),
    "test_xgboost_experiment": (5, "xgboost"),
}
NOT_RUN = "mongo"  # in the names of three tests: hyperopt keeps their trials in a MongoDB server on port 27017
PROJECTS = ("integration-test", "hyperopt-integration-test", "dev-sigopt-xgb-integration-test")  # that the tests name


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A service with the projects of the tests."""
    with started(tmp_path_factory.mktemp("tuning")) as server:
        connection = sigopt.Connection(client_token=server.token.read_text().strip(), api_url=server.url)
        client = connection.tokens("self").fetch().client
        for project in PROJECTS:
            connection.clients(client).projects().create(id=project, name=project)
        yield server


def test_every_installed_module_is_listed() -> None:
    assert {module.name for module in pkgutil.iter_modules(TESTS.__path__)} == set(MODULES)


@pytest.mark.parametrize("module", MODULES)
def test_the_tests_of_the_client_pass(module: str, server: Server, tmp_path: Path) -> None:
    tests, package = MODULES[module]
    if package:
        pytest.importorskip(package, reason=f"{package}, an optional package of sigopt, is not installed")
    outcomes, output = run(module, server, tmp_path)
    assert set(outcomes.values()) == {"passed"}, output
    assert len(outcomes) == tests, output


def run(module: str, server: Server, folder: Path) -> tuple[dict[str, str], str]:
    """Run a module of the client in a process of its own, and return the outcome of each test, and the output."""
    use_java()  # hyperopt has trials on Spark
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join((str(ROOT), os.environ.get("PYTHONPATH", ""))),
        "PYSPARK_PYTHON": sys.executable,
        "SIGOPT_PROJECT": PROJECTS[0],
        "SIGOPT_API_URL": server.url,
        "SIGOPT_API_TOKEN": server.token.read_text().strip(),
    }
    (folder / "pytest.ini").write_text("[pytest]\n")
    report = folder / "report.xml"
    options = ["-c", "pytest.ini", "-p", "tests.helpers.python310_random", "-k", f"not {NOT_RUN}", f"--junitxml={report}"]
    command = [sys.executable, "-m", "pytest", *options, "--pyargs", f"{TESTS.__name__}.{module}"]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=600)
    cases = ET.parse(report).iter("testcase") if report.exists() else ()
    # A test that passes has no element, such as `failure`, `error` or `skipped`, but may have output.
    outcomes = {
        case.get("name", ""): next((part.tag for part in case if not part.tag.startswith("system")), "passed") for case in cases
    }
    return outcomes, done.stdout[-10_000:] + done.stderr[-2_000:]
