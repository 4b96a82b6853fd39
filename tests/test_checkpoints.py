"""Checkpoints: what goes in comes out, and what is damaged says how to restore it."""

import contextlib
import hashlib
import io
import json
import os
import pickle
import re
import sys
import tempfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load, save

from helpers import checkpoints, doors
from helpers.checkpoints import CheckpointError, checkpoint_paths, load_checkpoint, save_checkpoint
from helpers.generator import TextToImage
from helpers.models import ConvCVAE, FirstGenerator, SentenceLayers, ShapesCVAE

ARGUMENTS = {"hidden": 5, "output": 11, "noise": 1.0}
ELSEWHERE = "write it again with save_checkpoint."
RELEASED = "restore it with 'git checkout -- checkpoints', or train it again."


def save_small(path, seed=1):
    """Save the same small reader for the same seed."""
    torch.manual_seed(seed)
    facts = {"arguments": ARGUMENTS, "seed": seed, "results": {"accuracy": 0.5}}
    return save_checkpoint(path, SentenceLayers(**ARGUMENTS), facts, {"table": torch.arange(6.0)})


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def seed_of(path):
    """Load it, assert that facts and weights belong together, return the seed."""
    model, facts = load_checkpoint(path)
    torch.manual_seed(facts["seed"])
    fresh = SentenceLayers(**ARGUMENTS).state_dict()
    assert all(torch.equal(fresh[key], value) for key, value in model.state_dict().items())
    return facts["seed"]


def test_what_was_saved_is_loaded_to_the_bit(tmp_path):
    for name, kind in checkpoints.MODELS.items():
        arguments = ARGUMENTS if name == "SentenceLayers" else {}
        model = kind(**arguments)
        for buffer in model.buffers():
            buffer.add_(1)
        facts = {"arguments": arguments, "seed": 3, "results": {"accuracy": 0.5}, "own": "é"}
        path = save_checkpoint(tmp_path / "new" / name, model, facts, {"table": torch.ones(6)})
        state = torch.get_rng_state()
        loaded, again = load_checkpoint(path)
        assert torch.equal(torch.get_rng_state(), state), "loading uses up no random numbers"
        assert type(loaded) is kind and kind.__name__ == name and not loaded.training
        found = loaded.state_dict()
        for key, tensor in model.state_dict().items():
            assert torch.equal(found.pop(key), tensor), (name, key)
        assert again | facts == again and again["model"] == name
        assert torch.equal(again["extra"]["table"], torch.ones(6))
        assert again["versions"]["torch"].startswith("2.") and "python" in again["versions"]
        assert again["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
        copy = save_checkpoint(tmp_path / "copy", loaded, again, again["extra"])
        assert copy.read_bytes() == path.read_bytes(), "what is loaded can be saved again"
    assert len(list((tmp_path / "new").iterdir())) == 2 * len(checkpoints.MODELS)


def test_saving_refuses_what_could_not_be_loaded(tmp_path):
    for model, facts, words in (
        (ShapesCVAE(8), {"arguments": {"latent": 9}}, "give the 'arguments' that the model was"),
        (ShapesCVAE(), {"arguments": {"size": 9}}, "built with {'size': 9}"),
        (torch.nn.Linear(2, 2), {}, "names the model 'Linear'"),
        (ShapesCVAE(), {"results": {"loss": torch.nan}}, "not JSON compliant"),
    ):
        with pytest.raises(ValueError, match=words):
            save_checkpoint(tmp_path / "wrong", model, facts)
    assert not list(tmp_path.iterdir())


def test_names_and_paths(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "CHECKPOINTS", tmp_path)
    paths = {"foo": f"{tmp_path}/foo", "a/b.c": "a/b.c", "b.safetensors": "b", Path("b"): "b",
             "~/b": str(Path.home() / "b"), "mine/b": f"{tmp_path}/mine/b"}
    for name, path in paths.items():
        found = [place.as_posix() for place in checkpoint_paths(name)]
        assert found == [f"{path}.safetensors", f"{path}.json"]
    with pytest.raises(TypeError, match="not a int"):
        checkpoint_paths(3)
    for name in ("", "  ", "..", "a/..", "a\0b"):
        with pytest.raises(CheckpointError, match="not a checkpoint's name"):
            checkpoint_paths(name)
    save_small("one"), save_small("two"), save_small("mine/own")
    with pytest.raises(CheckpointError, match=r"^one holds a SentenceLayers, which draws nothing"):
        TextToImage.load("one")
    (tmp_path / ".two.safetensors").touch()
    (tmp_path / "folder.safetensors").mkdir()
    assert checkpoints.known_checkpoints() == ["one", "two", "mine/own"]
    for name in ("thre", "folder", "a seven " * 100, f"{__file__}/small"):
        with pytest.raises(CheckpointError, match=r"^There is no checkpoint .*: there are one, tw"):
            load_checkpoint(name)


def test_choose_device(monkeypatch):
    def choose(cuda, mps, name=None):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(cuda))
        monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
        return str(doors.choose_device(name))

    monkeypatch.delenv("PROMPT_TO_PIXELS_DEVICE", raising=False)
    assert [choose(0, False), choose(0, True), choose(2, True)] == ["cpu", "mps", "cuda"]
    assert [choose(2, True, "cpu"), choose(2, False, "cuda:1")] == ["cpu", "cuda:1"]
    for name, cuda in (("cuda", 0), ("mps", 0), ("tpu", 0), ("cuda:x", 2), ("cuda:2", 2)):
        with pytest.raises(ValueError, match=f"no device '{name}' here: choose one of .*cpu"):
            choose(cuda, False, name)
    monkeypatch.setenv("PROMPT_TO_PIXELS_DEVICE", "cpu")
    assert [choose(1, False), choose(1, False, "cuda")] == ["cpu", "cuda"]


class Trap:
    """Leaves a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def damages(weights, facts, other, trap):
    """Yield what has happened, weights, facts and words of the message, for every kind of damage.

    A dict of facts becomes JSON; weights of another sha256 than the facts say are found by it,
    and those with its right one by what they hold.
    """
    def sealed(content):
        return content, facts | {"sha256": hashlib.sha256(content).hexdigest()}

    for length in (0, 7, 300, len(weights) - 1):
        yield f"cut to {length}", weights[:length], facts, "the sha256 is"
        yield f"cut to {length}, sealed", *sealed(weights[:length]), "are damaged"
    for place in (1, 20, len(weights) // 2, len(weights)):
        flipped = weights[: place - 1] + bytes([weights[place - 1] ^ 1]) + weights[place:]
        yield f"a bit of {place}", flipped, facts, "the sha256 is"
    yield "weights of the same kind, swapped", other[0], facts, "the sha256 is"
    yield "the JSON of another file", weights, other[1], "the sha256 is"
    tensors, file = load(weights), io.BytesIO()
    torch.save(trap, file)
    packed = pickle.dumps(trap)
    for content in (packed, file.getvalue(), len(packed).to_bytes(8, "little") + packed):
        yield f"a pickle of {content[:20]}", content, facts, "the sha256 is"
        yield f"a pickle of {content[:20]}, sealed", *sealed(content), "are damaged"
    others = [
        ({"net.0.bias": torch.full((5,), torch.nan)}, "a weight is no finite number"),
        ({"scale": torch.tensor(torch.inf)}, "a weight is no finite number"),
        ({"extra.table": torch.tensor([1, torch.nan])}, "a weight is no finite number"),
        ({"depth": torch.zeros(3)}, "depth"), ({"net.0.bias": torch.zeros(6)}, "net.0.bias"),
        ({"net.0.bias": torch.zeros(5).half()}, "no float32"),
    ]
    for change, words in others:
        yield f"{change}", *sealed(save(tensors | change)), words
    del tensors["scale"]
    yield "a tensor missing", *sealed(save(tensors)), "scale"
    yield "another model's", *sealed(save(FirstGenerator().state_dict())), "SentenceLayers, built"
    yield "no JSON", weights, None, "No such file"
    for text in (b"", b"{", b"\0\xff", '{"a": "ö"}'.encode("latin-1"), b"<html></html>",
                 b"[" * 100_000, b"[]", b"null", b'"model"', json.dumps(facts)[:-40].encode()):
        yield f"a JSON of {text[:20]}", weights, text, "are damaged"
    for key, words in {"sha256": "there is no 'sha256'", "model": "the model None"}.items():
        yield f"no {key}", weights, {k: v for k, v in facts.items() if k != key}, words
    for model in ("BigCVAE", ["SentenceLayers"], 3):
        yield f"model {model}", weights, facts | {"model": model}, "names the model"
    changes = [{"hidden": value} for value in (6, -5, 10**30, "5")] + [{"depth": 2}]
    for value in (None, [5, 11, 1.0], {"hidden": 5}, *(ARGUMENTS | change for change in changes)):
        yield f"arguments {value}", weights, facts | {"arguments": value}, "does not fit"


@pytest.mark.parametrize("advice", [ELSEWHERE, RELEASED])
def test_every_damage_is_one_sentence_that_says_what_to_do(tmp_path, monkeypatch, advice):
    """And nothing is unpickled, and nothing changed."""
    if advice == RELEASED:
        monkeypatch.setattr(checkpoints, "CHECKPOINTS", tmp_path)
    path, other = save_small(tmp_path / "a" / "small"), save_small(tmp_path / "other", seed=2)
    beside, trap, failures, n = path.with_suffix(".json"), Trap(tmp_path / "sprung"), [], 0
    files = path, other
    pairs = [(p.read_bytes(), json.loads(p.with_suffix(".json").read_text())) for p in files]
    for what, weights, told, words in damages(*pairs[0], pairs[1], trap):
        path.write_bytes(weights)
        beside.unlink(missing_ok=True)
        if told is not None:
            beside.write_bytes(json.dumps(told).encode() if isinstance(told, dict) else told)
        before, n = contents(tmp_path), n + 1
        try:
            said = f"loaded {load_checkpoint(path)[0]}"
        except Exception as error:
            said = str(error) if isinstance(error, CheckpointError) else repr(error)
        good = said.startswith(f"{path} ") and said.endswith(f": {advice}") and words in said
        if not good or "\n" in said or len(said) > 800 or contents(tmp_path) != before:
            failures.append(f"{what}: {said}")
    assert not failures and n > 40
    pickle.loads(pickle.dumps(trap))
    assert (tmp_path / "sprung").exists(), "the trap would not have sprung"


def test_what_is_too_large_or_no_file_is_not_read(tmp_path):
    path = save_small(tmp_path / "small")
    os.truncate(path, 2**31)  # it takes no room
    with pytest.raises(CheckpointError, match="the weights are larger than any model here"):
        load_checkpoint(path)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(CheckpointError, match="There is no checkpoint"):
        load_checkpoint(path)


def test_a_save_that_was_cut_short_between_its_two_files_is_refused(tmp_path, monkeypatch):
    """The weights are new then, and the JSON is the old one."""
    monkeypatch.setattr(checkpoints, "CHECKPOINTS", tmp_path)
    path = save_small("small")
    old = path.with_suffix(".json").read_bytes()
    save_small("small", seed=2)
    path.with_suffix(".json").write_bytes(old)
    with pytest.raises(CheckpointError, match="do not belong together") as refused:
        load_checkpoint("small")
    assert "git checkout -- checkpoints" in str(refused.value)
    assert seed_of(save_small(path, seed=3)) == 3


def test_captions_that_are_others_now(tmp_path, monkeypatch):
    """The checkpoint says which file, and the sha256 of its first lines."""
    monkeypatch.setattr(checkpoints, "CHECKPOINTS", tmp_path)
    file = tmp_path / "readers" / "captions.txt"
    file.parent.mkdir()
    file.write_text("draw a one\ndraw a two\nérase three\nmore\n", encoding="utf-8")
    texts = ["draw a one", "draw a two", "érase three"]
    facts = {"captions": checkpoints.describe_captions(texts)}
    save_checkpoint("knows", ConvCVAE(), facts, {"captions": torch.eye(3, 384)})
    assert TextToImage.load("knows", "cpu").texts == texts
    words = (rf"^{re.escape(str(file))} does not hold the \d captions that the checkpoint learned: "
             r"restore it with 'git checkout -- checkpoints'\.$")
    for n, told in ((3, {}), (3, {"captions": None}), (2, facts), (4, facts)):
        said = words if told == facts else "captions are damaged: train it again"
        with pytest.raises(CheckpointError, match=said):
            TextToImage(ConvCVAE(), told | {"extra": {"captions": torch.eye(n, 384)}}, "other")
    for content in (b"draw a one\ndraw a too\n\xc3\xa9rase three", b"draw a one\n", b"\xff", None):
        file.unlink()
        if content is not None:
            file.write_bytes(content)
        for action in (TextToImage.load, lambda _: checkpoints.describe_captions(texts)):
            with pytest.raises(CheckpointError, match=words):
                action("knows")


@pytest.mark.skipif(sys.platform == "win32", reason="rights are others there")
def test_without_rights_it_loads_and_says_what_it_cannot_do():
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)  # those of pytest are closed to others
        path, shut = save_small(folder / "small"), save_small(folder / "shut")
        shut.chmod(0)
        folder.chmod(0o555)
        stack.callback(folder.chmod, 0o755)
        if os.getuid() == 0:  # who may read and write everything
            os.seteuid(65534)
            stack.callback(os.seteuid, 0)
        assert seed_of(path) == 1
        for place in (path, folder / "new.safetensors"):
            with pytest.raises(PermissionError) as refused:
                save_small(place, seed=2)
            reason = "cannot be written (Permission denied): choose a folder that you may write to"
            assert (refused.value.filename, refused.value.strerror) == (str(place), reason)
        with pytest.raises(CheckpointError, match="Permission denied"):
            load_checkpoint(shut)
        assert len(list(folder.iterdir())) == 4 and seed_of(path) == 1


def test_a_full_disk_leaves_the_old_checkpoint(tmp_path):
    resource = pytest.importorskip("resource", reason="no limit of a file's size here")
    path, model = save_small(tmp_path / "small"), ShapesCVAE(latent=8)
    before, limits = contents(tmp_path), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, limits[1]))
    try:
        for place in (path, tmp_path / "new.safetensors"):
            with pytest.raises(OSError, match="free some disk space") as refused:
                save_checkpoint(place, model, {"arguments": {"latent": 8}})
            assert refused.value.filename == str(place)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert contents(tmp_path) == before and seed_of(path) == 1
