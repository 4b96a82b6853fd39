"""What is released: the five draw what was asked for, and their JSONs are within bounds."""

import json

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import TextToImage, captions
from helpers.captions import HELD_OUT_PHRASINGS, STYLES, WORDS, known_captions, write_caption
from helpers.checkpoints import CHECKPOINTS, known_checkpoints, load_checkpoint
from helpers.generator import DEFAULT, FAMILIARITY
from helpers.metrics import load_judge, name_digits
from helpers.mnist import load_mnist, to_float
from helpers.plotting import does_it_hold
from helpers.shapes import PROMPTS, draw_shapes
from helpers.strokes import measure_strokes

SHAPES, DIGITS = ("shapes-mlp", "shapes-cvae"), ("mnist-cvae", "mnist-style", "mnist-flow")
TEN = [f"the number {word}" for word in WORDS]


@pytest.fixture(scope="module")
def released():
    return {name: TextToImage.load(name, device="cpu") for name in SHAPES + DIGITS}


def test_five_are_released_and_a_reader(released):
    known = [name for name in known_checkpoints() if not name.startswith("mine/")]
    assert known == sorted(SHAPES + DIGITS) and DEFAULT in DIGITS
    assert [name for name, model in released.items() if model.guided] == ["mnist-flow"]
    assert [name for name in DIGITS if released[name].reads_styles] == ["mnist-style", "mnist-flow"]
    assert load_checkpoint(FAMILIARITY)[1]["results"]
    known = [*known_captions()]
    assert [released[name].texts for name in DIGITS] == [known[:5380], known, known]


@pytest.mark.parametrize("name", SHAPES)
def test_shapes_are_nearest_to_real_ones_of_their_prompt(released, name):
    def blur(pictures):
        return F.avg_pool2d(pictures.view(-1, 1, 28, 28), 3, 2).flatten(1)

    real = torch.cat([draw_shapes(prompt, 300) for prompt in PROMPTS])
    drawn = released[name].draw(list(PROMPTS), 40, seed=1)
    nearest = torch.cdist(blur(drawn), blur(real)).topk(5, largest=False).indices // 300
    right = (nearest.mode(1).values.view(9, 40) == torch.arange(9)[:, None]).float().mean()
    ratio = drawn.view(9, 40, -1).var(1).mean(1) / real.view(9, 300, -1).var(1).mean(1)
    ratio = ratio[:8]  # sparse dots are one picture
    if name == "shapes-mlp":  # it has learned means
        does_it_hold({"nearest": (right, 0.2, 0.3), "variance": (ratio.max(), 0, 1e-3)})
    else:
        does_it_hold({"nearest": (right, 0.8, 1), "variance": (ratio.min(), 0.5, 1)})


@pytest.mark.parametrize("name", DIGITS)
def test_pictures_match_unseen_prompts(released, name):
    """Every digit in 20 phrasings that no training has seen, two pictures of each."""
    asked = [(phrasing, digit) for phrasing in HELD_OUT_PHRASINGS[:20] for digit in range(10)]
    pictures = released[name].draw([write_caption(*pair) for pair in asked], n=2, seed=0)
    digits = torch.tensor([digit for _, digit in asked]).repeat_interleave(2)
    correct = (name_digits(load_judge("digits"), pictures) == digits).float().mean().item()
    measured = released[name].facts["results"]["measures"]["prompt accuracy, held-out"]["mean"]
    assert correct > 0.96 and correct == pytest.approx(measured, abs=0.03)


@pytest.mark.parametrize("name", DIGITS)
def test_pictures_of_a_prompt_differ_as_real_ones_do(released, name):
    """A decoder that returns its mean has no variance across latents; real digits have."""
    images, labels = load_mnist(train=False)
    real = torch.stack([to_float(images[labels == digit]).var(0).mean() for digit in range(10)])
    drawn = released[name].draw(TEN, 30, seed=1).view(10, 30, -1).var(1).mean(1)
    cooler = released[name].draw(TEN, 30, 1, 0.5).view(10, 30, -1).var(1).mean(1)
    share = drawn / real
    assert 0.3 < share.min() and share.max() < 1.5 and (cooler < drawn).all(), share
    assert released[name].draw("a four", 5, temperature=0).var(0).mean() < 1e-8


@pytest.mark.parametrize("name", ["mnist-style", "mnist-flow"])
def test_words_of_style_move_what_is_measured(released, name):
    """From thin to thick, from left to right, in words alone."""
    scales = (
        ["a very thin {}", "a thin {}", "a regular-weight {}", "a bold {}", "a very bold {}"],
        ["a {} leaning far to the left", "a {} leaning left", "an upright {}", "a {} leaning right",
         "a {} leaning far to the right"],
    )
    for column, phrasings in enumerate(scales):
        prompts = [phrasing.format(word) for phrasing in phrasings for word in WORDS]
        strokes = measure_strokes(released[name].draw(prompts, 6, seed=3))[:, column]
        means = strokes.view(5, 60).mean(1).tolist()
        assert means == sorted(means), f"{phrasings} measure {means}"


def test_guidance_and_steps_of_the_flow(released):
    flow = released["mnist-flow"]
    seven, two = (flow.draw(p, 3, guidance=0, steps=5) for p in ("a seven", "a bold two"))
    assert torch.allclose(seven, two, atol=1e-5), "without guidance the prompt is ignored"
    usual, same = flow.draw("a four", 3), flow.draw("a four", 3, guidance=1.3, steps=50)
    assert torch.equal(same, usual), "its own guidance and steps"
    final = flow.draw("a four", 5, steps=200)
    gaps = [(flow.draw("a four", 5, steps=s) - final).abs().mean().item() for s in (2, 8, 50)]
    assert gaps == sorted(gaps, reverse=True) and gaps[-1] < 0.02 < gaps[0], gaps
    many, few = (flow.draw("a seven", n, seed=4, steps=5) for n in (70, 17))
    assert torch.allclose(few, many[:17], atol=1e-3)


def test_digits_are_known_from_other_things(released):
    model = released["mnist-style"]
    for prompt in ("a seven", "Can you show me what five looks like?", "print number 3", "8"):
        assert model.understands(prompt).score > 0.5 and model.doubt(prompt) == "", prompt
    for prompt in ("draw a cat", "eleven", "3 or 5", "a seis", "fourty-two"):
        score, nearest = model.understands(prompt)
        assert score < 0.5 and nearest in known_captions(), prompt
        assert model.doubt(prompt).endswith(f'; the nearest I know is "{nearest}".')
    assert model.understands("please draw a seven").nearest == "please draw a seven"
    assert model.reading("a bold seven leaning to the left") == "seven, thick, leaning left"
    assert model.reading("draw a four") == "four"


@pytest.mark.parametrize("name, most", [("languages", 0.1), ("compounds", 0.5)])
def test_what_no_training_met_is_doubted(released, name, most):
    """Number words of other languages; requests that name a digit and mean another thing."""
    texts = [prompt.text for prompt in captions.load_prompts(name)]
    trusted = [text for text in texts if released["mnist-style"].understands(text).score > 0.5]
    assert len(trusted) < most * len(texts), trusted


PASTED = "def x(y):|{\"a\": [1,|<p>|\x1b[0m|٣७①|👩‍🚀|\0|seven|http://a.b/?c=|\r\n".split("|")


@given(st.text(st.characters()) | st.text(min_size=1).map(lambda text: (text * 10_000)[:10_000])
       | st.lists(st.sampled_from(PASTED), max_size=30).map(" ".join))
@settings(max_examples=12)
def test_any_text_is_drawn_or_refused(released, prompt):
    for name in ("shapes-cvae", "mnist-style"):
        try:
            pictures = released[name].draw(prompt, 1, temperature=1000)
        except ValueError as error:
            assert len(str(error)) < 300 and str(error).endswith(".")
        else:
            assert pictures.shape == (1, 1, 28, 28)
            assert pictures.min() >= 0 and pictures.max() <= 1, "and no NaN"
            assert released[name].title(prompt).startswith(f'"{prompt}"')


def test_the_committed_measures_are_within_bounds():
    said = {name: json.loads((CHECKPOINTS / f"{name}.json").read_text())["results"]
            for name in (*SHAPES, *DIGITS, "readers/familiarity")}
    rows = {}
    for name, accuracy, least, most in (("shapes-mlp", 0.6, 0, 1e-3), ("shapes-cvae", 0.9, 0.5, 1)):
        rows[f"{name}, accuracy"] = (said[name]["accuracy"]["mean"], accuracy, 1)
        rows[f"{name}, variance"] = (said[name]["variance ratio"]["mean"], least, most)
    bounds = {"prompt accuracy, held-out": (0.975, 1), "worst digit, held-out": (0.95, 1),
              "Fréchet ratio": (1, 11), "recall": (0.75, 1),
              "distance to the nearest training picture": (3.5, 5)}
    for name in DIGITS:
        for what, (low, high) in bounds.items():
            rows[f"{name}, {what}"] = (said[name]["measures"][what]["mean"], low, high)
    for name in ("mnist-style", "mnist-flow"):
        styles = said[name]["styles"]
        thirds = styles["styled"]["in the requested third"].values()
        rows[f"{name}, worst third"] = (min(thirds), 0.65, 1)
        rows[f"{name}, mean third"] = (sum(thirds) / len(thirds), 0.88, 1)
        rows[f"{name}, messy"] = (styles["readers"]["messy"]["all"], 0.97, 1)
        rows[f"{name}, typos"] = (styles["readers"]["typos"]["all"], 0.92, 1)
        for style in STYLES:
            rows[f"{name}, {style}"] = (styles["slopes"][style]["slope"], 0.88, 1.05)
            rows[f"{name}, {style} unnamed"] = (styles["unnamed"][style]["drawn"], 0, 0.07)
    for other, least in {"far": 0.99, "near": 0.95}.items():
        what = f"AUROC, held-out against {other}"
        rows[f"familiarity, {other}"] = (said["readers/familiarity"][what], least, 1)
    does_it_hold(rows)


# What is not taken as typed is said


def test_what_is_not_read_is_said():
    cvae, flow, letters = (
        TextToImage.load(name, "cpu") for name in ("mnist-cvae", "mnist-flow", "shapes-cvae"))
    long = "nine " + "and again " * 150 + "sorry, I meant a thick seven"
    assert "It is too long, and its end is not read: \"again and again" in flow.doubt(long)
    assert flow.doubt("a very thick seven, right-leaning") == "" == cvae.doubt("a seven")
    assert cvae.doubt("a Thick seven, right-leaning") == (
        "mnist-cvae does not read \"right-leaning\" and \"thick\": mnist-flow does.")
    for denial in ("nine but not thick", "an eight, it shouldn't be too thin", "a 3 without bold"):
        assert "and no denial of it: leave out what it is not" in flow.doubt(denial), denial
    assert not flow.doubt("a thick nine") and not flow.doubt("why not draw a seven, thick please")
    assert letters.doubt(" horizontal  line\n") == "" == letters.doubt("c\u200bross")
    assert "its end is not read: \"xyz\"" in letters.doubt("a" * 32 + "xyz")


def test_a_flow_is_guided_as_the_prompt_needs_it_and_says_so():
    flow = TextToImage.load("mnist-flow", "cpu")
    plain, styled = flow.settings("a seven"), flow.settings("a very thick seven")
    assert 1.25 < plain["guidance"] < 1.4 and 1.9 < styled["guidance"] <= 2
    assert plain["steps"] == 50 and flow.settings("a seven", 3, 7) == {"guidance": 3.0, "steps": 7}
    asked = {"prompts": "a very thick seven", "n": 2}
    own, told = flow.draw(**asked), flow.draw(**asked, guidance=styled["guidance"])
    other = flow.draw(**asked, guidance=1.3)
    assert (own - told).abs().mean() < 0.005 and (own - other).abs().mean() > 0.015
    assert TextToImage.load("mnist-cvae", "cpu").settings("a seven") == {}


def test_the_default_obeys_more_and_lies_nearer_to_handwriting_than_the_others():
    rows = json.loads((CHECKPOINTS / "flow-comparisons.json").read_text())["defaults"]
    own, others = rows["mnist-flow, its own choice"], [rows["mnist-style"], rows["mnist-cvae"]]
    for measure in ("styles obeyed", "digit, styled", "digit, plain", "coverage"):
        assert own[measure] > max(other[measure] for other in others), measure
    assert own["Fréchet ratio"] < min(other["Fréchet ratio"] for other in others)
    assert DEFAULT == "mnist-flow"
