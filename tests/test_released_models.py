"""The released digits: what is drawn is what was asked for, and the noise has a job."""

import json

import pytest
import torch

from helpers import TextToImage
from helpers.captions import HELD_OUT_PHRASINGS, WORDS, write_caption
from helpers.checkpoints import checkpoint_paths
from helpers.metrics import load_digit_judge, name_digits
from helpers.mnist import load_mnist, to_float
from helpers.strokes import measure_strokes
from helpers.style_evaluation import Reference


@pytest.fixture(scope="module", name="model", params=["mnist-cvae", "mnist-style"])
def fixture_model(request):
    return TextToImage.load(request.param, device="cpu")


@pytest.fixture(scope="module", name="style_model")
def fixture_style_model():
    return TextToImage.load("mnist-style", device="cpu")


def test_pictures_match_unseen_prompts(model):
    """Every digit in 20 phrasings that no training has seen, two pictures of each."""
    asked = [(phrasing, digit) for phrasing in HELD_OUT_PHRASINGS[:20] for digit in range(10)]
    pictures = model.draw([write_caption(*pair) for pair in asked], n=2, seed=0)
    digits = torch.tensor([digit for _, digit in asked]).repeat_interleave(2)
    correct = (name_digits(load_digit_judge(), pictures) == digits).float().mean().item()
    results = json.loads(checkpoint_paths(model.name)[1].read_text())["results"]
    measured = results["measures"]["prompt accuracy, held-out"]["mean"]
    assert correct > 0.95
    assert correct == pytest.approx(measured, abs=0.03)


def test_pictures_of_a_prompt_differ_as_real_ones_do(model):
    """A decoder that returns its mean has no variance across latents; real digits have."""
    images, labels = load_mnist(train=False)
    for digit, word in enumerate(WORDS):
        real = to_float(images[labels == digit]).var(0).mean()
        drawn = model.draw(f"the number {word}", n=100, seed=1).var(0).mean()
        assert 0.3 < drawn / real < 1.5, f"{word}: {drawn / real:.2f} of the real variance"


def test_temperature_scales_the_variety(model):
    spread = [model.draw("a four", 50, seed=2, temperature=t).var(0).mean() for t in (0, 0.5, 1)]
    assert spread[0] < 1e-8 < spread[1] < spread[2]


def test_words_of_style_move_what_is_measured(style_model):
    """From thin to thick, from left to right, in words alone."""
    scales = (
        (0, ["a very thin {}", "a thin {}", "a regular-weight {}", "a bold {}",
             "a very bold {}"]),
        (1, ["a {} leaning far to the left", "a {} leaning left", "an upright {}",
             "a {} leaning right", "a {} leaning far to the right"]),
    )
    for column, phrasings in scales:
        means = []
        for phrasing in phrasings:
            prompts = [phrasing.format(word) for word in WORDS]
            means.append(measure_strokes(style_model.draw(prompts, 10, seed=3))[:, column].mean())
        assert means == sorted(means), f"{phrasings} measure {means}"


def test_what_is_not_said_varies_from_picture_to_picture(style_model):
    """One sentence, many styles: even ranks have a standard deviation of 0.29."""
    reference = Reference()
    for digit, word in enumerate(WORDS):
        asked = torch.full((80,), digit)
        ranks = reference.rank(style_model.draw(f"draw a {word}", 80, seed=5), asked)
        assert ranks.std(0).min() > 0.15, f"{word}: {ranks.std(0)}"
        bold = style_model.draw(f"a bold {word}", 80, seed=5)
        ranks = reference.rank(bold, asked)
        assert ranks[:, 1:].std(0).min() > 0.07, f"bold {word}: {ranks.std(0)}"
