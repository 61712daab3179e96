"""Loads the OpenMP library of GCC for packages that need it and do not bring it, such as LightGBM.

A machine without a compiler may have no `libgomp.so.1`, such as a new Debian. PyTorch's wheel brings one under the same name.
"""

from __future__ import annotations

import ctypes
from importlib.util import find_spec
from pathlib import Path

LIBRARY = "libgomp.so.1"


def load_openmp() -> None:
    """Load the machine's `libgomp.so.1`, or else PyTorch's; without either, do nothing.

    Libraries that are loaded later and need a library of this name get it.
    """
    try:
        ctypes.CDLL(LIBRARY)
    except OSError:
        torch = find_spec("torch")  # torch itself is not imported
        own = Path(torch.origin).parent / "lib" / LIBRARY if torch and torch.origin else None
        if own is not None and own.exists():
            ctypes.CDLL(str(own), mode=ctypes.RTLD_GLOBAL)
