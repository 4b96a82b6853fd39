"""Checkpoints: what goes in comes out, and whatever does not fit is refused in one sentence."""

import hashlib
import json
import pickle
import re

import pytest
import torch

from helpers import checkpoints
from helpers.checkpoints import (
    CheckpointError,
    checkpoint_paths,
    choose_device,
    known_checkpoints,
    load_checkpoint,
    save_checkpoint,
)
from helpers.generator import FAMILIARITY
from helpers.models import ConvCVAE, FirstGenerator, SentenceLayers, ShapesCVAE, StyleCVAE

RELEASED = ("mnist-flow", "mnist-style", "mnist-cvae", "shapes-cvae", "shapes-mlp")


@pytest.fixture
def saved(tmp_path):
    """A ShapesCVAE with eight latents as tmp_path/small.safetensors: its path and the model."""
    torch.manual_seed(0)
    model = ShapesCVAE(latent=8)
    facts = {"arguments": {"latent": 8}, "seed": 3, "results": {"accuracy": 0.5}}
    return save_checkpoint(tmp_path / "small", model, facts, {"table": torch.arange(6.0)}), model


def refused(path, *words):
    """Load, and return the message of the refusal, one sentence with these words in it."""
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path)
    message = str(caught.value)
    assert "\n" not in message and message.endswith(".")
    for word in words:
        assert word in message
    return message


def edit(path, **changes):
    """Change some facts in the JSON beside the weights."""
    beside = path.with_suffix(".json")
    beside.write_text(json.dumps(json.loads(beside.read_text()) | changes))


def test_what_was_saved_is_loaded(saved):
    path, model = saved
    loaded, facts = load_checkpoint(path)
    assert not loaded.training and loaded.latent == 8
    for key, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], tensor), key
    assert facts["seed"] == 3 and facts["results"] == {"accuracy": 0.5}
    assert facts["model"] == "ShapesCVAE" and facts["arguments"] == {"latent": 8}
    assert facts["versions"]["torch"].startswith("2.") and "python" in facts["versions"]
    assert facts["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert torch.equal(facts["extra"]["table"], torch.arange(6.0))


def test_only_whole_files_are_left_behind(saved):
    path, _ = saved
    assert sorted(p.name for p in path.parent.iterdir()) == ["small.json", "small.safetensors"]


def test_loaded_facts_can_be_saved_again(saved, tmp_path):
    model, facts = load_checkpoint(saved[0])
    copy = save_checkpoint(tmp_path / "copy", model, facts, facts["extra"])
    assert copy.read_bytes() == saved[0].read_bytes()


@pytest.mark.parametrize("kind", [FirstGenerator, ShapesCVAE, ConvCVAE, StyleCVAE])
def test_every_model_goes_round(tmp_path, kind):
    path = save_checkpoint(tmp_path / "m", kind(), {})
    assert type(load_checkpoint(path)[0]) is kind


def test_a_reader_goes_round(tmp_path):
    arguments = {"hidden": 5, "output": 11, "noise": 1.0}
    reader = SentenceLayers(**arguments)
    reader.fit_scale(torch.randn(20, 384))
    path = save_checkpoint(tmp_path / "r", reader, {"arguments": arguments})
    loaded = load_checkpoint(path)[0]
    x = torch.randn(3, 384)
    assert torch.equal(loaded(x), reader.eval()(x)) and loaded.noise == 1.0


def test_every_known_model_is_the_class_of_its_name():
    assert all(kind.__name__ == name for name, kind in checkpoints.MODELS.items())
    assert len(checkpoints.MODELS) == 6


def test_loading_uses_up_no_random_numbers(saved):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    load_checkpoint(saved[0])
    assert torch.equal(torch.get_rng_state(), before)


def test_names_and_paths():
    assert checkpoint_paths("foo")[0] == checkpoints.CHECKPOINTS / "foo.safetensors"
    assert checkpoint_paths("a/b.c")[1].as_posix() == "a/b.c.json"
    assert checkpoint_paths("b.safetensors")[0].as_posix() == "b.safetensors"
    with pytest.raises(TypeError, match="not a int"):
        checkpoint_paths(3)
    for name in ("", "  ", "..", "a/.."):
        with pytest.raises(CheckpointError, match="not a checkpoint's name"):
            checkpoint_paths(name)


def test_unknown_name_lists_the_known_ones():
    message = refused("mnist-cvea")
    for name in known_checkpoints():
        assert name in message
    assert set(RELEASED) == set(known_checkpoints())
    assert "familiarity" not in message, "a reader in a folder of its own draws nothing"


@pytest.mark.parametrize("name", [*RELEASED, FAMILIARITY])
def test_released_checkpoints_load(name):
    model, facts = load_checkpoint(name)
    assert type(model).__name__ == facts["model"]
    assert facts["results"], "a released checkpoint carries measured results"
    assert all(torch.isfinite(p).all() for p in model.state_dict().values())


def test_a_damaged_reader_says_how_to_restore_it(tmp_path, monkeypatch):
    """Below `checkpoints/` git and training help, in whichever folder."""
    monkeypatch.setattr(checkpoints, "CHECKPOINTS", tmp_path)
    for folder in (tmp_path, tmp_path / "readers"):
        path = save_checkpoint(folder / "familiarity", ShapesCVAE(), {})
        path.write_bytes(path.read_bytes()[:-1])
        refused(path, "git checkout -- checkpoints", "python -m helpers train familiarity")
    monkeypatch.undo()
    refused(path, "write it again with save_checkpoint")


def test_missing_json(saved):
    saved[0].with_suffix(".json").unlink()
    refused(saved[0], "small.json is missing")


@pytest.mark.parametrize("text", ["", "{", "[]", "\x00\xff", '{"model": "ShapesCVAE"}'])
def test_damaged_json(saved, text):
    saved[0].with_suffix(".json").write_text(text)
    refused(saved[0], "small.json")


def test_truncated_weights(saved):
    content = saved[0].read_bytes()
    for size in (0, 5, 100, len(content) - 1):
        saved[0].write_bytes(content[:size])
        refused(saved[0], "damaged or truncated")


def test_one_flipped_bit(saved):
    content = bytearray(saved[0].read_bytes())
    content[-5] ^= 1
    saved[0].write_bytes(content)
    refused(saved[0], "damaged or truncated")


class Trap:
    """Leaves a trace when it is unpickled."""

    sprung = False

    def __reduce__(self):
        return (setattr, (Trap, "sprung", True))


def test_a_pickle_in_disguise_is_never_opened(saved):
    saved[0].write_bytes(pickle.dumps(Trap()))
    refused(saved[0], "damaged or truncated")
    edit(saved[0], sha256=hashlib.sha256(saved[0].read_bytes()).hexdigest())
    refused(saved[0], "not one of our safetensors files")
    assert not Trap.sprung


def test_no_file_of_helpers_unpickles():
    for path in (checkpoints.CHECKPOINTS.parent / "helpers").glob("*.py"):
        assert not re.search(r"torch\.load\(|import pickle|weights_only", path.read_text()), path


def test_unknown_model(saved):
    edit(saved[0], model="BigCVAE")
    refused(saved[0], "BigCVAE")


def test_json_of_another_configuration(saved):
    edit(saved[0], arguments={"latent": 9})
    refused(saved[0], "{'latent': 9}", "{'latent': 8}")


def test_weights_that_do_not_fit_name_tensor_and_shapes(saved, monkeypatch):
    """The class has changed since: the same name and arguments give other shapes."""

    class Changed(ShapesCVAE):
        def __init__(self, latent):
            super().__init__(latent=latent + 1)

    now, then = Changed(8).state_dict(), saved[1].state_dict()
    key = next(key for key in now if now[key].shape != then[key].shape)
    monkeypatch.setitem(checkpoints.MODELS, "ShapesCVAE", Changed)
    refused(saved[0], f"{key} is", str(tuple(now[key].shape)), str(tuple(then[key].shape)))


def test_arguments_that_build_nothing(saved, monkeypatch):
    monkeypatch.setattr(checkpoints, "MODELS", {"ShapesCVAE": FirstGenerator})
    refused(saved[0], "FirstGenerator")
    monkeypatch.setattr(checkpoints, "MODELS", {"ShapesCVAE": lambda: None})
    refused(saved[0], "cannot be built with {'latent': 8}")


def test_saving_refuses_what_could_not_be_loaded(tmp_path):
    with pytest.raises(CheckpointError, match="encoder"):
        save_checkpoint(tmp_path / "wrong", ShapesCVAE(latent=8), {"arguments": {"latent": 9}})
    with pytest.raises(ValueError):
        save_checkpoint(tmp_path / "wrong", ShapesCVAE(), {"results": {"loss": float("nan")}})
    assert not list(tmp_path.iterdir())


def test_a_failed_write_leaves_the_old_checkpoint(saved, monkeypatch):
    path, _ = saved
    before = path.read_bytes()

    def full(self, content):
        with self.open("wb") as file:
            file.write(content[:10])
        raise OSError(28, "No space left on device", str(self))

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    with pytest.raises(OSError, match="No space"):
        save_checkpoint(path, ShapesCVAE(), {})
    monkeypatch.undo()
    assert path.read_bytes() == before and len(list(path.parent.iterdir())) == 2
    load_checkpoint(path)


def test_choose_device(monkeypatch):
    monkeypatch.delenv("PROMPT_TO_PIXELS_DEVICE", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert choose_device().type == "cpu"
    for name in ("cuda", "mps", "tpu", "cuda:x", "meta"):
        with pytest.raises(ValueError, match=f"no device '{name}' here: choose one of cpu"):
            choose_device(name)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert choose_device().type == "mps"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose_device().type == "cuda"
    assert choose_device("cuda:1").index == 1 and choose_device("cpu").type == "cpu"
    with pytest.raises(ValueError, match="cuda:2"):
        choose_device("cuda:2")
    monkeypatch.setenv("PROMPT_TO_PIXELS_DEVICE", "cpu")
    assert choose_device().type == "cpu" and choose_device("cuda").type == "cuda"
    monkeypatch.setenv("PROMPT_TO_PIXELS_DEVICE", "abacus")
    with pytest.raises(ValueError, match="abacus"):
        choose_device()
