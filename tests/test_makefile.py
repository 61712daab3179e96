"""Variables of the Makefile that have several uses."""

from __future__ import annotations

import os
import subprocess

import pytest

from tests.helpers.paths import ROOT


def commands(*arguments: str, **variables: str) -> str:
    """Return the commands that make would run."""
    environment = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKEOVERRIDES", "PROCESSES")}
    done = subprocess.run(
        ["make", "--dry-run", *arguments], cwd=ROOT, env=environment | variables, capture_output=True, text=True, check=True
    )
    return done.stdout


@pytest.mark.parametrize(
    ("arguments", "variables", "expected"),
    [
        (["serve"], {}, False),
        (["serve"], {"PROCESSES": "4"}, False),
        (["serve", "PROCESSES=4"], {}, True),
        (["serve", "PROCESSES="], {}, False),
    ],
)
def test_only_the_command_line_asks_for_several_processes_of_the_service(
    arguments: list[str], variables: dict[str, str], expected: bool
) -> None:
    assert ("--processes" in commands(*arguments, **variables)) is expected


def test_the_environment_sets_the_processes_of_tests() -> None:
    assert "pytest -n 4 " in commands("test", PROCESSES="4")
    assert "pytest -n auto " in commands("test")
