"""What training and judges are given: checked at their doors, and taken to where they compute."""

import contextlib
import functools
import os

import torch


def choose_device(name=None):
    """Choose where to compute: CUDA if there is one, else MPS, else the CPU.

    `name`, as in "cuda:1", or the environment's PROMPT_TO_PIXELS_DEVICE overrides the choice; a
    device that this machine does not have is a ValueError.
    """
    kinds = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    here = [kind for kind, available in kinds.items() if available] + ["cpu"]
    name = name or os.environ.get("PROMPT_TO_PIXELS_DEVICE") or here[0]
    with contextlib.suppress(RuntimeError, TypeError):  # not the name of any device
        device = torch.device(name)
        count = torch.cuda.device_count() if device.type == "cuda" else 1
        if device.type in here and (device.index or 0) < count:
            return device
    raise ValueError(f"There is no device {str(name)!r} here: choose one of {', '.join(here)}.")


def check_pictures(pictures, inputs=None):
    """Refuse what no model here learns from: pictures outside [0, 1], inputs not finite."""
    if pictures.dim() != 4 or pictures.shape[1] != 1 or not pictures.is_floating_point():
        kind = f"{pictures.dtype} {tuple(pictures.shape)}"
        raise ValueError(f"Pictures are floats (n, 1, h, w), not {kind}: see `to_float`.")
    if not len(pictures):
        raise ValueError("There are no pictures: give some, or smaller batches.")
    if not bool(((pictures >= 0) & (pictures <= 1)).all()):  # NaN neither
        raise ValueError("Pictures have values from 0 (paper) to 1 (ink): divide bytes by 255.")
    if inputs is not None and (len(inputs) != len(pictures) or not bool(inputs.isfinite().all())):
        raise ValueError("Each picture needs one row of finite inputs: look for NaN in them.")


def to_model(model, pictures, inputs):
    """Check a batch, and take it to where the model is."""
    check_pictures(pictures, inputs)
    device = next(model.parameters()).device
    return pictures.to(device), inputs.to(device)


def on_device(train):
    """Let a training function take `device=`, see `choose_device`, for its model and its tensors.

    Random numbers are drawn on the CPU wherever it computes, so that they are the same everywhere.
    In the end the model is back where it was. Tensors that are not finite are a ValueError.
    """
    @functools.wraps(train)
    def trained(model, *given, device=None, **settings):
        device, home = choose_device(device), next(model.parameters()).device
        if not all(x.isfinite().all() for x in given if torch.is_tensor(x)):
            raise ValueError(f"{train.__name__} was given NaN or infinity: mend your data.")
        given = [x.to(device) if torch.is_tensor(x) else x for x in given]
        try:
            return train(model.to(device), *given, **settings)
        finally:
            model.to(home)

    return trained
