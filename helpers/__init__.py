"""What the notebooks have taught and a later one needs again; to be imported before torchvision."""

import errno
import importlib
import os
import secrets
import sys
from pathlib import Path

import torch

__all__ = ["TextToImage", "repair_torchvision", "write_whole"]

_DECLARED = []  # torch.library objects undo their declarations when they are collected


def repair_torchvision() -> bool:
    """Import torchvision; return whether the one known fault of a mixed installation was mended.

    Built for CUDA beside a torch for CPU, it fails with ``operator torchvision::nms does not
    exist``, and sentence-transformers with it. Then the missing operators are declared first.
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


def write_whole(path, content):
    """Write bytes beside `path`, then rename: a failure leaves what was there, and an OSError."""
    path = Path(path)
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        beside.write_bytes(content)
        os.replace(beside, path)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        todo = "free some disk space" if full else "choose a folder that you may write to"
        reason = f"cannot be written ({error.strerror}): {todo}"
        raise OSError(error.errno, reason, str(path)) from error
    finally:
        beside.unlink(missing_ok=True)


def __getattr__(name):
    # TextToImage is looked up on first use, so that a notebook about shapes does not load it.
    if name == "TextToImage":
        from helpers.generator import TextToImage  # noqa: PLC0415

        return TextToImage
    raise AttributeError(f"module 'helpers' has no attribute {name!r}")
