"""Lets `import streaming` succeed beside a torch that torchvision's wheel was not built for.

mosaicml-streaming imports torchvision, whose import registers fake kernels for operators of its compiled extension;
where that extension does not load (a CUDA wheel beside a CPU torch), the operators are missing and the import fails.
Import this module before `streaming`, in Spark's Python workers too. Nothing else belongs here.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch

_OPERATORS = ("nms", "qnms")
_SIGNATURE = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


def _extension_loads() -> bool:
    """Whether torchvision's own operators can be had; asks without importing torchvision."""
    found = importlib.util.find_spec("torchvision")
    if found is None or found.origin is None:
        return False
    library = Path(found.origin).parent / "_C.so"
    try:
        torch.ops.load_library(library)
    except OSError:
        return False
    return True


def _define_missing() -> torch.library.Library | None:
    if _extension_loads():
        return None
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in _OPERATORS:
        if not hasattr(torch.ops.torchvision, name):
            library.define(name + _SIGNATURE)
    return library


LIBRARY = _define_missing()  # the definitions live as long as this object
