"""Released weights: a safetensors file and a JSON beside it, written whole, checked when loaded.

Two files cannot be renamed in one step. So a save writes the new JSON under a second, hidden name
(`.name.next.json`), then renames the weights into place, then this JSON. A reader takes the JSON
whose sha256 fits the weights: wherever a save was cut short, that is all old or all new. Saves of
one name take turns behind a lock file (`.name.lock`); loading writes nothing and waits for nobody.

Nothing here unpickles: a file that is not safetensors is refused, whatever it holds.
"""

import hashlib
import importlib.metadata
import json
import os
import platform
from pathlib import Path

import torch
from filelock import FileLock
from safetensors import SafetensorError
from safetensors.torch import load, save

from helpers.files import write_whole, writing
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
    return sorted(path.stem for path in CHECKPOINTS.glob("[!.]*.safetensors") if path.is_file())


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
    """Write a model and what is known about it: the weights and a JSON beside them.

    Whenever it is cut short, the old checkpoint loads or the new one, never a mix of both; the next
    save of this name clears away what was left. Two saves of one name at once take turns.

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
        ValueError: JSON cannot hold the facts, as with a result that is not a number.
        OSError: the folder cannot be written or the disk is full; the old checkpoint loads, or the
            new one if all but the last rename was done.
    """
    weights_path, facts_path = checkpoint_paths(name)
    facts = {"arguments": {}, "seed": None, "results": {}} | facts
    facts |= {"model": type(model).__name__, "versions": _versions()}
    facts.pop("extra", None)  # as `load_checkpoint` returns it
    weights = _whole(model.state_dict())
    advice = "give the 'arguments' that the model was built with"
    _check_fit(_empty_model(facts, weights_path, advice), weights, weights_path, advice)
    tensors = weights | _whole({EXTRA + key: tensor for key, tensor in (extra or {}).items()})
    packed = save(tensors, {"facts": json.dumps({k: facts[k] for k in ("model", "arguments")})})
    facts["sha256"] = hashlib.sha256(packed).hexdigest()
    text = json.dumps(facts, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    with writing(weights_path):
        weights_path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(weights_path.with_name(f".{weights_path.stem}.lock")):
            _settle(weights_path, facts_path)
            try:
                write_whole(_next(facts_path), text.encode())
                write_whole(weights_path, packed)
            finally:
                _settle(weights_path, facts_path)
    return weights_path


def _next(facts_path):
    return facts_path.with_name(f".{facts_path.stem}.next.json")


def _settle(weights_path, facts_path):
    """End the save that is under way or was killed: its JSON takes its place, or goes."""
    upcoming = _next(facts_path)
    for path in weights_path.parent.iterdir():
        if path.stem in (f".{weights_path.name}", f".{upcoming.name}"):  # never renamed
            path.unlink()
    if not upcoming.is_file():
        return
    if weights_path.is_file() and _fits(upcoming.read_bytes(), _sha256(weights_path.read_bytes())):
        os.replace(upcoming, facts_path)
    else:
        upcoming.unlink()


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
    packed, facts = _read_pair(name, weights_path, facts_path)
    tensors, inside = _unpack(packed, weights_path)
    for key in ("model", "arguments"):
        if inside.get(key) != facts[key]:
            raise CheckpointError(
                f"{facts_path} says {key} {facts[key]!r} and {weights_path.name} was written with "
                f"{inside.get(key)!r}: {_restore(weights_path)}."
            )
    advice = _restore(weights_path)
    model = _empty_model(facts, weights_path, advice)
    weights = {key: tensor for key, tensor in tensors.items() if not key.startswith(EXTRA)}
    _check_fit(model, weights, weights_path, advice)
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


def _read(path):
    """Read a file: its bytes, or None if there is none."""
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise CheckpointError(
            f"{path} cannot be read ({error.strerror}): make it a file that you may read, or "
            f"{_restore(path)}."
        ) from error


def _read_pair(name, weights_path, facts_path):
    """Read the weights, and as a dict the JSON that fits them, be it the next one."""
    for _ in range(5):  # saves may be running
        upcoming, current = _read(_next(facts_path)), _read(facts_path)  # in the order of a save
        packed = _read(weights_path)
        if packed is None:
            raise CheckpointError(f"There is no checkpoint {os.fspath(name)!r}: {_known()}.")
        found = _sha256(packed)
        for text in (current, upcoming):
            if text is not None and _fits(text, found):
                return packed, _parse(text, facts_path)
    if current is None:
        raise CheckpointError(
            f"{facts_path} is missing, so the weights cannot be checked: {_restore(facts_path)}."
        )
    wanted = str(_parse(current, facts_path)["sha256"])
    raise CheckpointError(
        f"{weights_path} is damaged or truncated (its sha256 is {found[:12]}…, it should be "
        f"{wanted[:12]}…): {_restore(weights_path)}."
    )


def _sha256(packed):
    return hashlib.sha256(packed).hexdigest()


def _fits(text, sha256):
    """Say whether the bytes of a JSON are facts about the weights with this sha256."""
    try:
        return _parse(text, Path())["sha256"] == sha256
    except CheckpointError:
        return False


def _parse(text, path):
    try:
        facts = json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged ({error}): {_restore(path)}.") from error
    for key in ("model", "arguments", "sha256"):
        if not isinstance(facts, dict) or key not in facts:
            raise CheckpointError(f"{path} does not say {key!r}: {_restore(path)}.")
    return facts


def _refuse(constant):
    raise ValueError(f"{constant} is not a number")


def _unpack(packed, path):
    """Take a file's bytes apart: its tensors, and the facts that were written into it."""
    try:
        tensors = load(packed)
        header = json.loads(packed[8 : 8 + int.from_bytes(packed[:8], "little")])
        return tensors, dict(json.loads(header["__metadata__"]["facts"]))
    except (SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(
            f"{path} is not one of our safetensors files ({error}): {_restore(path)}."
        ) from error


def _empty_model(facts, path, advice):
    """Build the model without memory for its weights, and without using up random numbers."""
    name, arguments = facts["model"], facts["arguments"]
    if not isinstance(name, str) or name not in MODELS:
        raise CheckpointError(
            f"{path} names the model {name!r}, and there are {', '.join(MODELS)}: {advice}."
        )
    try:
        with torch.device("meta"):
            return MODELS[name](**arguments)
    except Exception as error:  # whatever a constructor makes of another version's arguments
        reason = " ".join(str(error).split()) or type(error).__name__
        raise CheckpointError(
            f"{path}: {name} cannot be built with {arguments!r} ({reason}): {advice}."
        ) from error


def _check_fit(model, weights, path, advice):
    """Name the first tensor in which model and weights differ."""
    wanted = {key: (tuple(t.shape), t.dtype) for key, t in model.state_dict().items()}
    found = {key: (tuple(t.shape), t.dtype) for key, t in weights.items()}
    for key in wanted | found:
        if wanted.get(key) != found.get(key):
            raise CheckpointError(
                f"{path} does not fit {type(model).__name__} as it is now: {key} is "
                f"{_describe(found.get(key))} in the file and {_describe(wanted.get(key))} in the "
                f"model; {advice}."
            )


def _describe(tensor):
    return f"{tensor[0]} {str(tensor[1]).removeprefix('torch.')}" if tensor else "missing"
