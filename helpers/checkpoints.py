"""Released weights: a safetensors file and a JSON beside it, written whole, checked when loaded.

Nothing here unpickles: a file that is not safetensors is refused, whatever it holds.
"""

import hashlib
import importlib.metadata
import json
import os
import platform
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from helpers.files import write_whole
from helpers.models import (
    ConvCVAE,
    FirstGenerator,
    LatentFlow,
    SentenceLayers,
    ShapesCVAE,
    StyleCVAE,
)

CHECKPOINTS = Path(__file__).resolve().parents[1] / "checkpoints"
MODELS = {
    model.__name__: model
    for model in (FirstGenerator, ShapesCVAE, ConvCVAE, StyleCVAE, LatentFlow, SentenceLayers)
}
EXTRA = "extra."  # tensors that are kept with the weights and belong to no layer
PACKAGES = ("torch", "numpy", "safetensors", "sentence-transformers")


class CheckpointError(ValueError):
    """A checkpoint that is unknown, damaged, or does not fit; the message says what to do."""


def choose_device(name=None):
    """Choose where to compute: CUDA if there is one, else MPS, else the CPU.

    Args:
        name: overrides the choice, as in "cpu" or "cuda:1"; without it the environment variable
            PROMPT_TO_PIXELS_DEVICE does.

    Returns:
        A `torch.device`.

    Raises:
        ValueError: the device is unknown, or this machine does not have it.
    """
    here = ["cpu"] + ["cuda"] * torch.cuda.is_available()
    here += ["mps"] * torch.backends.mps.is_available()
    name = name or os.environ.get("PROMPT_TO_PIXELS_DEVICE") or (here[1:] or here)[0]
    try:
        device = torch.device(name)
        found = device.type in here and (
            device.index is None or device.type == "cpu" or device.index < _count(device.type)
        )
    except (RuntimeError, TypeError):  # not the name of any device
        found = False
    if not found:
        raise ValueError(f"There is no device {str(name)!r} here: choose one of {', '.join(here)}.")
    return device


def _count(kind):
    return torch.cuda.device_count() if kind == "cuda" else 1


def known_checkpoints():
    """List the names of the checkpoints in `checkpoints/`, sorted."""
    return sorted(path.stem for path in CHECKPOINTS.glob("*.safetensors"))


def checkpoint_paths(name):
    """Find the two files of a checkpoint, whether or not they exist.

    Args:
        name: a name in `checkpoints/`, or a path: anything with a slash in it, ending in
            `.safetensors`, or a `Path`.

    Returns:
        weights and facts, two `Path`s that differ in `.safetensors` and `.json`.

    Raises:
        TypeError: the name is neither text nor a path.
        CheckpointError: the name is empty.
    """
    if not isinstance(name, str | os.PathLike):
        raise TypeError(f"A checkpoint has a name or a path, not a {type(name).__name__}.")
    text = os.fspath(name)
    stem = text.removesuffix(".safetensors")
    if not text.strip() or Path(stem).name in ("", ".", "..") or "\0" in text:
        raise CheckpointError(f"{text!r} is not a checkpoint's name: {_known()}.")
    is_path = isinstance(name, os.PathLike) or stem != text or "/" in text or os.sep in text
    base = Path(stem) if is_path else CHECKPOINTS / stem
    return base.with_name(f"{base.name}.safetensors"), base.with_name(f"{base.name}.json")


def _known():
    names = known_checkpoints()
    return f"the known ones are {', '.join(names)}" if names else f"{CHECKPOINTS} holds none yet"


def save_checkpoint(name, model, facts, extra=None):
    """Write a model and what is known about it: first the weights, then the JSON beside them.

    Both are written beside their places and renamed, so that a file is there whole or not at all.

    Args:
        name: a name in `checkpoints/` or a path, see `checkpoint_paths`.
        model: one of `MODELS`.
        facts: a dict that JSON can hold: "arguments" of the model's constructor, "seed", "results"
            (measured numbers) and whatever else belongs to it. The model's name, the versions and
            the sha256 are added here.
        extra: a dict of further tensors to keep in the same file.

    Returns:
        The `Path` of the weights.

    Raises:
        CheckpointError: the arguments would not rebuild the model.
        OSError: the folder cannot be written; whatever was there before is unharmed.
    """
    weights_path, facts_path = checkpoint_paths(name)
    facts = {"arguments": {}, "seed": None, "results": {}} | facts
    facts |= {"model": type(model).__name__, "versions": _versions()}
    facts.pop("extra", None)  # as `load_checkpoint` returns it
    weights = _whole(model.state_dict())
    _check_fit(_empty_model(facts, weights_path), weights, weights_path)
    tensors = weights | _whole({EXTRA + key: tensor for key, tensor in (extra or {}).items()})
    packed = save(tensors, {"facts": json.dumps({k: facts[k] for k in ("model", "arguments")})})
    facts["sha256"] = hashlib.sha256(packed).hexdigest()
    text = json.dumps(facts, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    weights_path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(weights_path, packed)
    write_whole(facts_path, text.encode())
    return weights_path


def _whole(tensors):
    return {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}


def _versions():
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    return versions | {"python": platform.python_version()}


def load_checkpoint(name, device="cpu"):
    """Load a model that `save_checkpoint` wrote, after checking every part of it.

    Args:
        name: a name in `checkpoints/` or a path, see `checkpoint_paths`.
        device: where the model goes.

    Returns:
        model: in evaluation mode.
        facts: the JSON as a dict; under "extra" a dict of the tensors that belong to no layer.

    Raises:
        CheckpointError: there is no such checkpoint, a file is missing, damaged or truncated, or
            the model that it names does not fit its weights.
    """
    weights_path, facts_path = checkpoint_paths(name)
    if not weights_path.is_file():
        raise CheckpointError(f"There is no checkpoint {os.fspath(name)!r}: {_known()}.")
    facts = _read_facts(facts_path)
    tensors, inside = _read_weights(weights_path, facts)
    for key in ("model", "arguments"):
        if inside.get(key) != facts[key]:
            raise CheckpointError(
                f"{facts_path} says {key} {facts[key]!r} and {weights_path.name} was written with "
                f"{inside.get(key)!r}: {_restore(weights_path)}."
            )
    model = _empty_model(facts, weights_path)
    weights = {key: tensor for key, tensor in tensors.items() if not key.startswith(EXTRA)}
    _check_fit(model, weights, weights_path)
    model.load_state_dict(weights, assign=True)
    extra = {k.removeprefix(EXTRA): v for k, v in tensors.items() if k.startswith(EXTRA)}
    return model.to(device).eval(), facts | {"extra": extra}


def _restore(path):
    if CHECKPOINTS not in path.parents:
        return "write it again with save_checkpoint"
    return (
        f"restore it with 'git checkout -- checkpoints' or train it again with "
        f"'python -m helpers train {path.stem}'"
    )


def _read_facts(path):
    if not path.is_file():
        raise CheckpointError(
            f"{path} is missing, so the weights cannot be checked: {_restore(path)}."
        )
    try:
        facts = json.loads(path.read_bytes())
    except ValueError as error:
        raise CheckpointError(f"{path} is damaged ({error}): {_restore(path)}.") from error
    for key in ("model", "arguments", "sha256"):
        if not isinstance(facts, dict) or key not in facts:
            raise CheckpointError(f"{path} does not say {key!r}: {_restore(path)}.")
    return facts


def _read_weights(path, facts):
    """Read a file once: its tensors, and the facts that were written into it."""
    packed = path.read_bytes()
    found = hashlib.sha256(packed).hexdigest()
    if found != facts["sha256"]:
        raise CheckpointError(
            f"{path} is damaged or truncated (its sha256 is {found[:12]}…, it should be "
            f"{str(facts['sha256'])[:12]}…): {_restore(path)}."
        )
    try:
        tensors = load(packed)
        header = json.loads(packed[8 : 8 + int.from_bytes(packed[:8], "little")])
        return tensors, json.loads(header["__metadata__"]["facts"])
    except (SafetensorError, ValueError, KeyError) as error:
        raise CheckpointError(
            f"{path} is not one of our safetensors files ({error}): {_restore(path)}."
        ) from error


def _empty_model(facts, path):
    """Build the model without memory for its weights, and without using up random numbers."""
    name, arguments = facts["model"], facts["arguments"]
    if not isinstance(name, str) or name not in MODELS:
        raise CheckpointError(f"{path} names the model {name!r}; there are {', '.join(MODELS)}.")
    try:
        with torch.device("meta"):
            return MODELS[name](**arguments)
    except (TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            f"{path}: {name} cannot be built with {arguments!r} ({str(error).splitlines()[0]})."
        ) from error


def _check_fit(model, weights, path):
    """Name the first tensor in which model and weights differ."""
    wanted = {key: (tuple(t.shape), t.dtype) for key, t in model.state_dict().items()}
    found = {key: (tuple(t.shape), t.dtype) for key, t in weights.items()}
    for key in wanted | found:
        if wanted.get(key) != found.get(key):
            raise CheckpointError(
                f"{path} does not fit {type(model).__name__} as it is now: {key} is "
                f"{_describe(found.get(key))} in the file and {_describe(wanted.get(key))} in the "
                f"model; {_restore(path)}."
            )


def _describe(tensor):
    return f"{tensor[0]} {str(tensor[1]).removeprefix('torch.')}" if tensor else "missing"
