"""The released digits: what is drawn is what was asked for, and the noise has a job."""

import fractions
import json
import math

import numpy as np
import pytest
import torch
from PIL import Image

from helpers import TextToImage
from helpers.__main__ import main
from helpers.captions import HELD_OUT_PHRASINGS, WORDS, write_caption
from helpers.checkpoints import checkpoint_paths
from helpers.generator import MOST_STEPS, check_guidance, check_steps
from helpers.metrics import load_digit_judge, name_digits
from helpers.mnist import load_mnist, to_float
from helpers.strokes import measure_strokes
from helpers.style_evaluation import Reference


@pytest.fixture(scope="module", name="model", params=["mnist-cvae", "mnist-style", "mnist-flow"])
def fixture_model(request):
    return TextToImage.load(request.param, device="cpu")


@pytest.fixture(scope="module", name="style_model")
def fixture_style_model():
    return TextToImage.load("mnist-style", device="cpu")


@pytest.fixture(scope="module", name="flow")
def fixture_flow():
    return TextToImage.load("mnist-flow", device="cpu")


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


# guidance and steps


FEW = {"guidance": 2.0, "steps": 5}  # of a flow, so that the tests stay quick


def test_only_flows_are_guided(model):
    assert model.guided == (model.name == "mnist-flow")


def test_a_flow_draws_the_same_for_the_same_seed(flow):
    first, again, other = (flow.draw("a seven", 3, seed, **FEW) for seed in (4, 4, 5))
    assert torch.equal(first, again) and not torch.allclose(first, other, atol=0.1)
    assert first.shape == (3, 1, 28, 28) and 0 <= first.min() and first.max() <= 1
    assert first.dtype == torch.float32 and not first.requires_grad


def test_a_picture_of_a_flow_depends_on_nothing_beside_it(flow):
    many = flow.draw("a seven", 70, seed=4, **FEW)
    for n in (1, 3, 17):
        assert torch.allclose(flow.draw("a seven", n, seed=4, **FEW), many[:n], atol=1e-3), n
    pair = flow.draw(["a bold two", "a seven"], 3, seed=4, **FEW)
    assert torch.allclose(pair[3:], many[:3], atol=1e-3), "nor on other prompts"


def test_without_guidance_the_prompt_is_ignored(flow):
    seven, two = (flow.draw(p, 3, guidance=0, steps=5) for p in ("a seven", "a bold two"))
    assert torch.allclose(seven, two, atol=1e-5)
    seven, two = (flow.draw(p, 3, guidance=1, steps=5) for p in ("a seven", "a bold two"))
    assert not torch.allclose(seven, two, atol=0.1)


def test_a_guidance_of_one_takes_the_velocity_as_it_is(flow):
    model, z, condition = flow.model, flow.latents(3, seed=2), flow.conditions(["a four"] * 3)
    with torch.no_grad():
        x = z
        for k in range(8):
            x = x + model.velocity(x, torch.full((3,), k / 8), condition) / 8
        expected = model.autoencoder.decode(model.centre + model.scale * x).clamp(0, 1)
    found = flow.draw("a four", 3, seed=2, guidance=1, steps=8)
    assert torch.allclose(found, expected, atol=1e-4)
    assert not torch.allclose(flow.draw("a four", 3, seed=2, guidance=3, steps=8), found, atol=0.1)


def test_without_settings_a_flow_uses_its_own(flow):
    own = {"guidance": flow.model.guidance, "steps": flow.model.steps}
    usual = flow.draw("a four", 3, seed=2)
    for settings in (own, {"guidance": own["guidance"]}, {"steps": own["steps"]}):
        assert torch.equal(flow.draw("a four", 3, seed=2, **settings), usual), settings
    z, condition = flow.latents(3, seed=2), flow.conditions("a four")
    assert torch.equal(flow.decode(z, condition), usual), "as the widgets do it"
    assert torch.equal(flow.decode(z, condition, **FEW), flow.draw("a four", 3, seed=2, **FEW))
    with torch.no_grad():
        own_draw = flow.model.paint(z, condition.expand(3, -1))
    assert torch.allclose(own_draw, usual, atol=1e-4)


def test_more_steps_converge(flow):
    final = flow.draw("a four", 5, steps=200)
    gaps = [(flow.draw("a four", 5, steps=s) - final).abs().mean().item() for s in (2, 8, 50)]
    assert gaps == sorted(gaps, reverse=True) and gaps[-1] < 0.02 < gaps[0], gaps


@pytest.mark.parametrize("settings", [{"guidance": 1.5}, {"steps": 5}, FEW, {"guidance": "x"}])
def test_what_is_no_flow_takes_no_guidance(style_model, settings):
    sentence = r'^mnist-style is no flow: leave out guidance and steps, or load "mnist-flow"\.$'
    z, conditions = style_model.latents(2), style_model.conditions("a four")
    with pytest.raises(ValueError, match=sentence):
        style_model.decode(z, conditions, **settings)
    with pytest.raises(ValueError, match=sentence):
        style_model.draw("a four", **settings)


def test_bad_guidance_is_one_sentence(flow):
    for guidance in (math.nan, math.inf, -math.inf, -0.1, np.float32("nan")):
        with pytest.raises(
            ValueError, match=r"^The guidance is .*: give a finite number, 0 .*\.$"
        ):
            flow.draw("a four", guidance=guidance)
    for guidance in (True, False, "2", "", 1j, [1.5], torch.tensor(1.5)):
        with pytest.raises(TypeError, match=r"^The guidance is .*: give a number, as in 1\.5\.$"):
            flow.draw("a four", guidance=guidance)
    for guidance in (2, 2.0, np.float64(2), np.int64(2), fractions.Fraction(2)):
        found = check_guidance(guidance)
        assert found == 2 and type(found) is float


def test_bad_steps_are_one_sentence(flow):
    for steps in (0, -1, MOST_STEPS + 1, 10**30):
        with pytest.raises(
            ValueError, match=r"^steps, the number of Euler steps, is .*: give 1 to 1000\.$"
        ):
            flow.draw("a four", steps=steps)
    for steps in (1.5, 5.0, True, "5", math.nan, [5]):
        with pytest.raises(
            TypeError, match=r"^steps, the number of Euler steps, is .*: give a whole number\.$"
        ):
            flow.draw("a four", steps=steps)
    assert [check_steps(steps) for steps in (1, np.int64(7), MOST_STEPS)] == [1, 7, 1000]


def test_bad_settings_are_refused_before_anything_is_read(flow, monkeypatch):
    monkeypatch.setattr(flow, "conditions", None)
    with pytest.raises(ValueError, match="give 1 to 1000"):
        flow.draw("a four", steps=0)


# guidance and steps on the command line


def run_draw(folder, *arguments, checkpoint="mnist-flow"):
    """Draw a seven there; return the status and the files."""
    out = folder / "out"
    status = main([
        "draw", "a seven", "--checkpoint", checkpoint, "--out", str(out), "--no-preview",
        "--device", "cpu", *arguments,
    ])
    return status, sorted(out.glob("*")) if out.exists() else []


def test_a_file_says_how_it_was_guided(flow, tmp_path):
    status, (path,) = run_draw(tmp_path, "--guidance", "2", "--steps", "10")
    with Image.open(path) as image:
        facts, ink = image.text, torch.from_numpy(np.array(image.resize((28, 28), 0)))
    assert status == 0 and json.loads(facts["guidance"]) == 2 and facts["steps"] == "10"
    assert facts["checkpoint"] == "mnist-flow" and facts["prompt"] == "a seven"
    expected = flow.draw("a seven", guidance=2, steps=10)[0, 0]
    assert (1 - ink / 255 - expected).abs().max() < 0.01, "the picture is that one, too"


def test_a_file_says_nothing_of_what_was_not_asked(tmp_path):
    status, (path,) = run_draw(tmp_path, "--steps", "3")
    with Image.open(path) as image:
        assert status == 0 and image.text["steps"] == "3" and "guidance" not in image.text


@pytest.mark.parametrize(
    ("arguments", "checkpoint", "words"),
    [
        (["--guidance", "nan"], "mnist-flow", "The guidance is nan: give a finite number"),
        (["--guidance", "-1"], "mnist-flow", "The guidance is -1.0: give a finite number"),
        (["--steps", "0"], "mnist-flow", "is 0: give 1 to 1000"),
        (["--steps", "1001"], "mnist-flow", "is 1001: give 1 to 1000"),
        (["--guidance", "2"], "mnist-style", "mnist-style is no flow"),
        (["--steps", "2"], "mnist-style", 'load "mnist-flow"'),
    ],
)
def test_bad_settings_on_the_command_line(tmp_path, capsys, arguments, checkpoint, words):
    status, paths = run_draw(tmp_path, *arguments, checkpoint=checkpoint)
    printed = capsys.readouterr()
    assert status == 2 and paths == [] and printed.out == ""
    assert words in printed.err and printed.err.count("\n") == 1 and printed.err.endswith(".\n")
