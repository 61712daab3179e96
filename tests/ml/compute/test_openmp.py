"""LightGBM can be imported where the machine has no OpenMP library."""

from __future__ import annotations

import subprocess
import sys

# Stands for a machine without libgomp: the loader finds PyTorch's copy by its path alone. LightGBM's own need of the name is
# satisfied by the copy, because the loader compares names with those of the libraries that are loaded.
WITHOUT = """
import ctypes
load, tried = ctypes.CDLL, []
def missing(name, *args, **kwargs):
    tried.append(name)
    if name == "libgomp.so.1":
        raise OSError("libgomp.so.1: cannot open shared object file")
    return load(name, *args, **kwargs)
ctypes.CDLL = missing
import sys
from ml.compute.openmp import load_openmp
load_openmp()
assert "torch" not in sys.modules
held = {line.split()[-1] for line in open("/proc/self/maps") if "libgomp.so.1" in line}
print(*held)
"""


def test_the_copy_of_torch_is_loaded_where_there_is_no_other() -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT], capture_output=True, text=True, check=True)
    (held,) = done.stdout.split()
    assert held.endswith("torch/lib/libgomp.so.1")
