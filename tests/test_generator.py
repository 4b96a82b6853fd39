"""TextToImage: shapes, order, seeds, refusals, and what it says about prompts it does not know."""

import io
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from PIL import Image

from helpers.captions import TRAINING_PHRASINGS, all_captions
from helpers.checkpoints import CheckpointError, save_checkpoint
from helpers.generator import (
    CHUNK,
    OFF_TOPIC,
    TextToImage,
    check_count,
    check_prompts,
    check_temperature,
    file_stem,
    fit_understanding,
    picture_to_image,
    png_bytes,
    save_pictures,
    sentence_encoder,
    slug,
    write_new,
)
from helpers.models import ConvCVAE, FirstGenerator, ShapesCVAE
from helpers.shapes import PROMPTS

KINDS = {"sentences": ConvCVAE, "letters": ShapesCVAE, "noise": FirstGenerator}


@pytest.fixture(scope="module")
def untrained(tmp_path_factory):
    """One untrained model of each kind, through a checkpoint."""
    folder = tmp_path_factory.mktemp("checkpoints")
    torch.manual_seed(0)
    for name, kind in KINDS.items():
        save_checkpoint(folder / name, kind(), {"seed": 0})
    return {name: TextToImage.load(folder / name, device="cpu") for name in KINDS}


@pytest.fixture(scope="module")
def released():
    return TextToImage.load("mnist-cvae", device="cpu")


@pytest.mark.parametrize("name", KINDS)
def test_pictures_come_prompt_by_prompt(untrained, name):
    model = untrained[name]
    pictures = model.draw(["circle", "cross"], n=3, seed=5)
    assert pictures.shape == (6, 1, 28, 28) and pictures.dtype == torch.float32
    assert pictures.min() >= 0 and pictures.max() <= 1 and not pictures.requires_grad
    assert torch.allclose(pictures[:3], model.draw("circle", n=3, seed=5), atol=1e-4)
    assert torch.allclose(pictures[3:], model.draw(["cross"], n=3, seed=5), atol=1e-4)
    assert not torch.allclose(pictures[:3], pictures[3:], atol=1e-4)


@pytest.mark.parametrize("name", KINDS)
def test_draw_is_the_models_own_draw(untrained, name):
    model = untrained[name]
    z = model.latents(3, seed=1)
    if model.tokenizer:
        inputs = model.tokenizer.encode(["circle"] * 3)
    else:
        inputs = sentence_encoder().encode(["circle"] * 3)
    with torch.no_grad():
        expected = model.model.draw(inputs, z)
    assert torch.allclose(model.draw("circle", 3, seed=1), expected, atol=1e-4)


def test_same_seed_same_picture(untrained):
    model = untrained["letters"]
    assert torch.equal(model.draw("circle", 4, seed=3), model.draw("circle", 4, seed=3))
    assert not torch.allclose(model.draw("circle", 4, seed=3), model.draw("circle", 4, seed=4))


@pytest.mark.parametrize("latent", [1, 3, 16, 20, 33])
def test_a_longer_list_of_latents_begins_like_a_shorter_one(latent):
    model = TextToImage(ShapesCVAE(latent=latent), {})
    whole = model.latents(50, seed=7)
    for n in range(1, 51):
        assert torch.equal(model.latents(n, seed=7), whole[:n]), n


def test_plain_randn_does_not_have_that_property():
    """The reason for the rounding up in `latents`; if this fails, it can go."""
    short, longer = (
        torch.randn(n, 20, generator=torch.Generator().manual_seed(0)) for n in (3, 5)
    )
    assert not torch.equal(short, longer[:3])


def test_latents_are_standard_normal_times_temperature(untrained):
    z = untrained["letters"].latents(20_000, seed=0)
    assert abs(z.mean()) < 0.01 and abs(z.std() - 1) < 0.01
    assert torch.allclose(untrained["letters"].latents(9, 0, 0.5), z[:9] * 0.5)
    assert (untrained["letters"].latents(9, 0, 0) == 0).all()


def test_seeds_of_any_size(untrained):
    model = untrained["letters"]
    for seed in (-1, 2**63, 2**64 - 1, 10**400, np.int64(5)):
        model.latents(1, seed)
    assert torch.equal(model.latents(2, -1), model.latents(2, 2**64 - 1))


def test_global_random_state_and_threads_are_left_alone(untrained):
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    untrained["letters"].draw("circle", 4)
    assert torch.equal(torch.get_rng_state(), before) and torch.get_num_threads() == threads


def test_chunks_join(untrained):
    model = untrained["letters"]
    many = model.draw("circle", CHUNK + 5)
    assert torch.allclose(many[-7:], model.decode(
        model.latents(CHUNK + 5)[-7:], model.conditions("circle")), atol=1e-4)


def test_conditions_and_decode_are_the_steps_of_draw(untrained):
    model = untrained["sentences"]
    condition = model.conditions(["a seven", "a four"])
    assert condition.shape == (2, 16)
    pictures = model.decode(model.latents(3, seed=2), condition[:1])
    assert torch.allclose(pictures, model.draw("a seven", 3, seed=2), atol=1e-4)
    assert model.decode(torch.zeros(1, model.latent), condition).shape == (2, 1, 28, 28)
    for shape in ((3, 19), (3, 20), (20,)):
        with pytest.raises(ValueError, match="do not fit"):
            model.decode(torch.zeros(shape), condition)


@pytest.mark.parametrize("prompt", ["", " ", "\n\t", "\u200b", "\x00", ["a", ""]])
def test_empty_prompts(untrained, prompt):
    with pytest.raises(ValueError, match=r"^The prompt is empty: write what to draw"):
        untrained["sentences"].draw(prompt)


@pytest.mark.parametrize("prompt", [None, 7, b"seven", {"a"}, ["a", 7], [None], object()])
def test_prompts_that_are_not_text(untrained, prompt):
    with pytest.raises(TypeError, match="A prompt is text"):
        untrained["letters"].draw(prompt)


def test_other_bad_prompts(untrained):
    with pytest.raises(ValueError, match="list of prompts is empty"):
        untrained["letters"].draw([])
    with pytest.raises(ValueError, match="not text"):
        untrained["sentences"].draw("\udc80")
    for prompt in ("5", "素敵", "🙂"):
        with pytest.raises(ValueError, match="no letter from a to z"):
            untrained["letters"].draw(prompt)
        assert len(untrained["sentences"].draw(prompt)) == 1
    assert check_prompts("a") == ["a"] and check_prompts(("a", "b")) == ["a", "b"]


@pytest.mark.parametrize("n", [True, 1.0, "3", None, float("nan")])
def test_counts_that_are_not_whole(untrained, n):
    with pytest.raises(TypeError, match="whole number"):
        untrained["letters"].draw("circle", n=n)


@pytest.mark.parametrize("n", [0, -1])
def test_counts_below_one(untrained, n):
    with pytest.raises(ValueError, match="ask for at least 1"):
        untrained["letters"].draw("circle", n=n)
    assert check_count(np.int64(3)) == 3


@pytest.mark.parametrize("seed", [1.5, "0", None, True])
def test_bad_seeds(untrained, seed):
    with pytest.raises(TypeError, match=r"^The seed is .*: give a whole number\.$"):
        untrained["letters"].draw("circle", seed=seed)


def test_bad_temperatures(untrained):
    for temperature in (-0.1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="finite number, 0 or more"):
            untrained["letters"].draw("circle", temperature=temperature)
    for temperature in ("1", None, True, 1j):
        with pytest.raises(TypeError, match="give a number"):
            untrained["letters"].draw("circle", temperature=temperature)
    assert check_temperature(2) == 2.0


def test_understanding_of_letters(untrained):
    model = untrained["letters"]
    for prompt in PROMPTS:
        assert model.understands(prompt.upper() + "!") == (1.0, prompt)
        assert model.doubt(prompt) == ""
    anagram = model.understands("elcric")  # the same condition vector, and yet not the prompt
    assert anagram.nearest == "circle" and 0.49 < anagram.score <= 0.5
    assert model.understands("triangle").score < anagram.score
    assert model.doubt("triangle").startswith("This is none of the nine prompts; the nearest")


def test_models_without_or_with_other_captions(untrained):
    with pytest.raises(CheckpointError, match="saved without captions"):
        untrained["sentences"].understands("a seven")
    with pytest.raises(CheckpointError, match=r"knows 3 captions .* 5380: train it again"):
        TextToImage(ConvCVAE(), {"extra": {"captions": torch.zeros(3, 384)}}, "old")


class ToyEncoder:
    """Sentences with a digit in them lie on one side, others on the other."""

    def encode(self, sentences):
        names = dict(zip(*all_captions(TRAINING_PHRASINGS), strict=True))
        vectors = torch.randn(len(sentences), 384, generator=torch.Generator().manual_seed(0)) / 99
        for vector, sentence in zip(vectors, sentences, strict=True):
            vector[-1] += -1.0 if sentence in OFF_TOPIC else 1.0
            if sentence in names:
                vector[names[sentence]] += 0.5
        return torch.nn.functional.normalize(vectors, dim=1)


def test_fit_understanding_separates_what_is_separable():
    captions, logistic = fit_understanding(ToyEncoder())
    assert captions.shape == (20 * len(TRAINING_PHRASINGS), 384)
    assert captions.dtype == torch.float16
    assert logistic["auroc"] > 0.999 and len(logistic["weights"]) == 2
    model = TextToImage(ConvCVAE(), {"extra": {"captions": captions}, "understands": logistic})
    other = ToyEncoder().encode([OFF_TOPIC[0]])
    assert model._familiarity.judge(captions[:1].float()).score > 0.5
    assert model._familiarity.judge(other).score < 0.5


def test_slugs_are_safe():
    assert slug("Print number 5!") == "print-number-5"
    for nasty in ("../../etc/passwd", "a\x00b", "<img src=x>", "x" * 999, "\\\\srv\\c$", "."):
        assert set(slug(nasty)) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")
        assert 0 < len(slug(nasty)) <= 40
    assert slug("素敵") == "prompt"
    assert file_stem({"prompt": "a/b", "seed": -1}).endswith(f"_a-b_seed{2**64 - 1}")


def test_saved_pictures_are_new_files_that_say_how_they_were_made(tmp_path):
    facts = {"prompt": "a <seven> ☺\x00", "seed": 4, "checkpoint": "mnist-cvae"}
    pictures = torch.rand(2, 1, 28, 28)
    paths = save_pictures(pictures, tmp_path / "new" / "folder", facts)
    paths += save_pictures(pictures, tmp_path / "new" / "folder", facts)
    assert len(set(paths)) == 4 == len(list(paths[0].parent.iterdir()))
    with Image.open(paths[1]) as image:
        assert image.size == (224, 224)
        assert image.text["prompt"] == "a <seven> ☺" and image.text["seed"] == "4"
        assert image.text["checkpoint"] == "mnist-cvae" and image.text["index"] == "2"
        assert abs(image.getpixel((4, 4)) / 255 - (1 - pictures[1, 0, 0, 0])) < 0.01


def test_nothing_is_overwritten_or_left_half(tmp_path, monkeypatch):
    first = write_new(tmp_path, "x", b"one")
    assert write_new(tmp_path, "x", b"two").name == "x-2.png" and first.read_bytes() == b"one"

    def full(self, content):
        raise OSError(28, "No space left on device", str(self))

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    with pytest.raises(OSError, match="No space"):
        write_new(tmp_path, "x", b"three")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x-2.png", "x.png"]


def test_ink_is_dark_in_files():
    image = picture_to_image(torch.ones(1, 28, 28), zoom=2)
    assert image.size == (56, 56) and image.getpixel((0, 0)) == 0
    with Image.open(io.BytesIO(png_bytes(image, {"seed": 1}))) as again:
        assert again.text == {"seed": "1"}


# The released model


def test_the_released_model_knows_digits_from_other_things(released):
    for prompt in ("a seven", "Can you show me what five looks like?", "print number 3", "8"):
        assert released.understands(prompt).score > 0.5, prompt
        assert released.doubt(prompt) == ""
    for prompt in ("draw a cat", "the sea in winter", "a red bicycle", "my dog is asleep"):
        score, nearest = released.understands(prompt)
        assert score < 0.5 and nearest in all_captions(TRAINING_PHRASINGS)[0], prompt
        assert released.doubt(prompt).startswith("This does not read like a digit; the nearest")
    assert released.understands("please draw a seven").nearest == "please draw a seven"
    assert released.facts["understands"]["auroc"] > 0.98


def test_sixteen_pictures_of_a_fresh_sentence_in_100_ms(released):
    released.draw("warm", 16)
    times = []
    for k in range(9):
        start = time.perf_counter()
        released.draw(f"please draw me the number {k} {time.time()}", 16)
        times.append(time.perf_counter() - start)
    assert sorted(times)[len(times) // 2] < 0.1, times


OFFLINE = """
import socket
def refuse(*args, **kwargs): raise OSError("this process has no network")
class NoSocket(socket.socket):
    __init__ = connect = refuse
socket.socket, socket.getaddrinfo, socket.create_connection = NoSocket, refuse, refuse
from helpers import TextToImage
model = TextToImage.load("mnist-cvae", device="cpu")
pictures = model.draw("Can you show me what five looks like?")
assert pictures.shape == (1, 1, 28, 28) and pictures.mean() > 0.02
print("drawn")
"""


def test_draws_without_a_network():
    done = subprocess.run(
        [sys.executable, "-W", "error::ResourceWarning", "-c", OFFLINE],
        capture_output=True, text=True, check=False,
    )
    assert done.stdout.strip() == "drawn", done.stderr
