"""Released weights: a safetensors file and a JSON beside it, each written whole, checked when read.

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

from helpers import restore, write_whole
from helpers.captions import OTHER, with_article
from helpers.flow import LatentFlow
from helpers.models import ConvCVAE, FirstGenerator, SentenceLayers, ShapesCVAE, StyleCVAE
from helpers.text import check_prompts, sentence_encoder

CHECKPOINTS = Path(__file__).resolve().parents[1] / "checkpoints"
MODELS = {
    model.__name__: model
    for model in (FirstGenerator, ShapesCVAE, ConvCVAE, StyleCVAE, LatentFlow, SentenceLayers)
}
EXTRA = "extra."  # tensors that are kept with the weights and belong to no layer
CAPTIONS = "readers/captions.txt"  # the texts that `understands` names, one a line
PACKAGES = ("torch", "numpy", "safetensors", "tokenizers")
LARGEST = 2**30  # bytes of a file of weights that are read at all
MINE = "mine/"   # what a reader's own checkpoints are named with; git ignores their folder


class CheckpointError(ValueError):
    """A checkpoint that is unknown, damaged, or does not fit; the message says what to do."""


def known_checkpoints():
    """List the names of the checkpoints in `checkpoints/`, sorted, and then yours, `mine/…`."""
    return [
        start + path.stem for start in ("", MINE)
        for path in sorted((CHECKPOINTS / start).glob("[!.]*.safetensors")) if path.is_file()
    ]


def checkpoint_paths(name):
    """Find the weights and the JSON of a checkpoint, whether or not they exist: two `Path`s.

    `name` is a name in `checkpoints/`, where `mine/…` are yours, or a path: with a slash,
    `.safetensors`, or a `Path`.
    """
    if not isinstance(name, str | os.PathLike):
        raise TypeError(f"A checkpoint has a name or a path, not a {type(name).__name__}.")
    text = os.fspath(name)
    stem = text.removesuffix(".safetensors")
    if not text.strip() or Path(stem).name in ("", ".", "..") or "\0" in text:
        known = ", ".join(known_checkpoints())
        raise CheckpointError(f"{text!r} is not a checkpoint's name: the known ones are {known}.")
    is_path = isinstance(name, os.PathLike) or stem != text or "/" in text or os.sep in text
    is_path = is_path and not (isinstance(name, str) and stem.startswith(MINE))
    base = Path(stem).expanduser() if is_path else CHECKPOINTS / stem
    return base.with_name(f"{base.name}.safetensors"), base.with_name(f"{base.name}.json")


def save_checkpoint(name, model, facts, extra=None):
    """Write one of `MODELS`, then a JSON of what is known about it: the `Path` of the weights.

    `facts` is a dict that JSON can hold: "arguments" of the constructor, "seed", "results" and
    whatever else belongs to it, such as your own list of "captions"; `extra` are further tensors.
    Raises ValueError if the arguments would not rebuild the model, OSError if the folder cannot be
    written or the disk is full.
    """
    weights_path, facts_path = checkpoint_paths(name)
    facts = {"arguments": {}, "seed": None, "results": {}} | facts
    if isinstance(facts.get("captions"), list | tuple):
        facts["captions"], own = describe_own_captions(facts["captions"])
        extra = (extra or {}) | {"captions": own}
    versions = {package: importlib.metadata.version(package) for package in PACKAGES}
    versions["python"] = platform.python_version()
    facts |= {"model": type(model).__name__, "versions": versions}
    facts.pop("extra", None)  # as `load_checkpoint` returns it
    tensors = model.state_dict()
    _rebuild(facts, tensors, weights_path, "give the 'arguments' that the model was built with")
    tensors = tensors | {EXTRA + key: tensor for key, tensor in (extra or {}).items()}
    tensors = {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}
    packed = save(tensors, {"facts": json.dumps({k: facts[k] for k in ("model", "arguments")})})
    facts["sha256"] = hashlib.sha256(packed).hexdigest()
    text = pack_json(facts)
    write_whole(weights_path, packed)
    write_whole(facts_path, text)
    return weights_path


def pack_json(facts):
    """Turn a dict into the bytes of a JSON file; ValueError for what is no number or no text."""
    return (json.dumps(facts, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def load_checkpoint(name, device="cpu"):
    """Load what `save_checkpoint` wrote, after checking every part of it, or a CheckpointError.

    Returns the model in evaluation mode, and the JSON as a dict, with further tensors as "extra".
    """
    weights_path, facts_path = checkpoint_paths(name)
    advice = "write it again with save_checkpoint"
    folders = weights_path.absolute().parents
    if CHECKPOINTS in folders and CHECKPOINTS / MINE not in folders:
        advice = f"{restore('checkpoints')}, or train it again"
    if not os.path.isfile(weights_path):  # which is False for a name that is too long, too
        known = ", ".join(known_checkpoints())
        known = f"there are {known}" if known else restore("checkpoints")
        raise CheckpointError(f"There is no checkpoint {os.fspath(name)!r}: {known}.")
    try:
        if weights_path.stat().st_size > LARGEST:
            raise ValueError("the weights are larger than any model here")
        packed = weights_path.read_bytes()
        facts = json.loads(facts_path.read_bytes())
        wanted = str(facts["sha256"])
        found = hashlib.sha256(packed).hexdigest()
        if found != wanted:
            raise ValueError(f"the sha256 is {found[:12]}… and should be {wanted[:12]}…")
        tensors = load(packed)
        weights = {key: tensor for key, tensor in tensors.items() if not key.startswith(EXTRA)}
        if not all(tensor.isfinite().all() for tensor in tensors.values()):
            raise ValueError("a weight is no finite number")
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
        reason = f"there is no {error}" if isinstance(error, KeyError) else error
        both = f"{weights_path} and its JSON are damaged or do not belong together"
        raise CheckpointError(f"{both} ({reason}): {advice}.") from error
    model = _rebuild(facts, weights, weights_path, advice)
    extra = {k.removeprefix(EXTRA): v for k, v in tensors.items() if k.startswith(EXTRA)}
    return model.to(device).eval(), facts | {"extra": extra}


def _rebuild(facts, weights, path, advice):
    """Build the model that the facts name around these weights, without using random numbers."""
    name, arguments = facts.get("model"), facts.get("arguments")
    if name not in list(MODELS):  # a JSON may hold a list, which has no hash
        known = ", ".join(MODELS)
        raise CheckpointError(f"{path} names the model {name!r}, and there are {known}: {advice}.")
    try:
        with torch.device("meta"):
            model = MODELS[name](**arguments)
        model.load_state_dict(weights, assign=True)
        if any(tensor.dtype != torch.float32 for tensor in model.parameters()):
            raise TypeError("the weights are no float32")
    except Exception as error:  # whatever a constructor makes of another version's arguments
        reason = " ".join(str(error).split())
        raise CheckpointError(
            f"{path} does not fit {name}, built with {arguments!r} ({reason[:300]}): {advice}."
        ) from error
    return model


def describe_captions(texts):
    """Say for a checkpoint's facts where the texts of `extra["captions"]` stand, and check it."""
    facts = {"file": CAPTIONS, "sha256": hashlib.sha256("\n".join(texts).encode()).hexdigest()}
    read_captions({"captions": facts, "extra": {"captions": texts}})
    return facts


def describe_own_captions(captions):
    """Describe captions of yours for a checkpoint: facts, and embeddings (n, 384) of the n texts.

    "familiar" is the cosine to the nearest text from which a prompt counts as known: half way
    between what nine in ten rewordings of the texts have, and nine in ten foreign prompts have not.
    """
    texts, encode = sorted(set(check_prompts(list(captions)))), sentence_encoder().encode
    some = texts[:: len(texts) // 500 + 1]
    things = [with_article(thing) for thing in OTHER.things]
    foreign = [*OTHER.about, *things, *(f"draw {thing}" for thing in things)]
    reworded = [f"please {way} {text}" for way in ("draw", "show me") for text in some]
    own = encode(texts)
    near, far = ((encode(prompts) @ own.T).max(1).values for prompts in (reworded, foreign))
    familiar = (near.quantile(0.1) + far.quantile(0.9)).item() / 2
    return {"texts": texts, "familiar": round(familiar, 4)}, own.half()


def read_captions(facts):
    """Read the texts of `facts["extra"]["captions"]`; CheckpointError if they are others now."""
    named, n = facts.get("captions"), len(facts["extra"]["captions"])
    if not isinstance(named, dict):
        raise CheckpointError("The checkpoint's captions are damaged: train it again.")
    if len(named.get("texts", ())) == n:  # a reader's own
        return named["texts"]
    path = CHECKPOINTS / named.get("file", CAPTIONS)
    try:
        texts = path.read_text(encoding="utf-8").splitlines()[:n]
    except (OSError, UnicodeDecodeError):
        texts = []
    if hashlib.sha256("\n".join(texts).encode()).hexdigest() != named.get("sha256"):
        fault = f"{path} does not hold the {n} captions that the checkpoint learned"
        raise CheckpointError(f"{fault}: {restore('checkpoints')}.")
    return texts
