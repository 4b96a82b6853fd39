"""What the notebooks have taught and a later one needs again.

Importing this package first makes torchvision importable (see `repair_torchvision`), which is why
every notebook imports from `helpers` before anything that imports torchvision.
"""

import importlib
import sys

import torch

__all__ = ["TextToImage", "repair_torchvision"]

_DECLARED = []  # torch.library objects undo their declarations when they are collected


def repair_torchvision() -> bool:
    """Import torchvision, mending the one known fault of a mixed installation.

    A torchvision built for CUDA beside a torch built for CPU cannot load its compiled operators,
    and its import fails with ``operator torchvision::nms does not exist``; sentence-transformers,
    which imports torchvision, fails with it. The plain import is tried first. Only an error that
    names ``torchvision::`` leads to the repair: the half-imported modules are dropped, the missing
    operators are declared (none that did load), and the import runs again.

    Returns:
        True if the repair was needed, False if the plain import worked.

    Raises:
        ImportError, RuntimeError: whatever the import raises for any other reason.
    """
    try:
        importlib.import_module("torchvision")
        return False
    except (ImportError, RuntimeError) as error:
        if "torchvision::" not in str(error):
            raise
    for name in [m for m in sys.modules if m == "torchvision" or m.startswith("torchvision.")]:
        del sys.modules[name]
    library = torch.library.Library("torchvision", "FRAGMENT")
    _DECLARED.append(library)
    for operator in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, operator):
            library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    importlib.import_module("torchvision")
    return True


repair_torchvision()


def __getattr__(name):
    # TextToImage is looked up on first use, so that a notebook about shapes does not load it.
    if name == "TextToImage":
        from helpers.generator import TextToImage  # noqa: PLC0415

        return TextToImage
    raise AttributeError(f"module 'helpers' has no attribute {name!r}")
