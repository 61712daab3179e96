"""Makes `import streaming` succeed if torchvision's wheel was not built for the installed torch.

mosaicml-streaming imports torchvision, which registers fake kernels for the operators of its compiled extension. If the
extension does not load (for example a CUDA wheel with a CPU build of torch), the operators are missing and the import fails.
Import this module before `streaming`, also in Spark's Python workers. Define nothing else here.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch

_OPERATORS = ("nms", "qnms")
_SIGNATURE = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


def _extension_loads() -> bool:
    """Returns whether torchvision's compiled operators can be loaded, without importing torchvision."""
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


LIBRARY = _define_missing()  # the operators stay defined as long as this object exists
