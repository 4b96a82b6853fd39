"""Checkpoints: what goes in comes out; names and devices. Faults are in faults/test_weights.py."""

import hashlib

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


def test_only_whole_files_and_the_lock_are_left_behind(saved):
    path, _ = saved
    save_checkpoint(path, ShapesCVAE(), {})
    assert sorted(p.name for p in path.parent.iterdir()) == [
        ".small.lock", "small.json", "small.safetensors"
    ]


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
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint("mnist-cvea")
    message = str(caught.value)
    assert "\n" not in message and all(name in message for name in known_checkpoints())
    assert set(RELEASED) == set(known_checkpoints())
    assert "familiarity" not in message, "a reader in a folder of its own draws nothing"


@pytest.mark.parametrize("name", [*RELEASED, FAMILIARITY])
def test_released_checkpoints_load(name):
    model, facts = load_checkpoint(name)
    assert type(model).__name__ == facts["model"]
    assert facts["results"], "a released checkpoint carries measured results"
    assert all(torch.isfinite(p).all() for p in model.state_dict().values())


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
