"""TextToImage with untrained models and a reader of its own: what goes in, what comes out."""

import enum
import fractions
import functools
import io
import math
import os
import re
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from helpers import checkpoints, generator
from helpers.captions import LEVEL_NAMES, STYLES, WORDS
from helpers.checkpoints import CheckpointError, describe_captions
from helpers.flow import LatentFlow
from helpers.generator import TextToImage, check_number, file_stem, save_picture, slug, write_new
from helpers.models import ConvCVAE, FirstGenerator, ShapesCVAE, StyleCVAE
from helpers.shapes import PROMPTS

KINDS = {"noise": FirstGenerator, "letters": ShapesCVAE, "sentences": ConvCVAE,
         "styles": StyleCVAE, "flow": LatentFlow}
EMPTY = "The prompt is empty: write what to draw, as in \"a seven\"."
TORN = "The prompt holds bytes that are not text: type it again."
NO_TEXT = "A prompt is text, or a list of texts: write \"a seven\"."


class ToyEncoder:
    """Stand in for MiniLM: number words point along axes of their own, all else along a tenth."""

    def encode(self, sentences):
        rows = []
        for sentence in sentences:
            rng = torch.Generator().manual_seed(zlib.crc32(sentence.encode()))
            row = torch.nn.functional.normalize(torch.randn(384, generator=rng), dim=0) / 2
            row[:11] = 0
            row[next((d for d, word in enumerate(WORDS) if word in sentence), 10)] = 1
            rows.append(row)
        return torch.stack(rows)

    def unread(self, sentence):
        return sentence[200:]


@pytest.fixture(scope="module", autouse=True)
def _toy_reader():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(generator, "sentence_encoder", ToyEncoder)
        patch.setattr(generator, "familiarity", lambda: lambda x: 9 * x[:, :11])
        yield


@pytest.fixture(scope="module")
def models():
    """One untrained model of each kind."""
    torch.manual_seed(0)
    made = {name: kind().eval().requires_grad_(False) for name, kind in KINDS.items()}
    for model in made.values():
        for parameter in model.parameters():  # nothing stays at zero, where layers can hide
            parameter.add_(0.05 * torch.randn(parameter.shape))
    return {name: TextToImage(model, {}, name) for name, model in made.items()}


@pytest.fixture
def letters(models):
    return models["letters"]


@pytest.fixture
def toy(monkeypatch, tmp_path):
    """A model of sentences that knows six captions."""
    texts = ["draw a one", "draw a two", "a bold two", "please, seven", "nine", "zero for me"]
    (tmp_path / "captions.txt").write_text("\n".join([*texts, "another"]) + "\n")
    monkeypatch.setattr(checkpoints, "CHECKPOINTS", tmp_path)
    monkeypatch.setattr(checkpoints, "CAPTIONS", "captions.txt")
    facts = {"extra": {"captions": ToyEncoder().encode(texts).half()}}
    facts["captions"] = describe_captions(texts)
    torch.manual_seed(0)
    return TextToImage(StyleCVAE().eval(), facts, "toy")


def refusal(action, *arguments, **settings):
    """Return kind and message of an error, which is one short sentence."""
    with pytest.raises((TypeError, ValueError)) as raised:
        action(*arguments, **settings)
    message = str(raised.value)
    assert len(message.splitlines()) == 1 and len(message) < 150 and message.endswith(".")
    return raised.type, message


def near(a, b):
    return torch.allclose(a, b, atol=1e-4)


@pytest.mark.parametrize("name", KINDS)
def test_pictures_come_prompt_by_prompt(models, name):
    model = models[name]
    pictures = model.draw(["circle", "a cross"], n=3, seed=5)
    assert pictures.shape == (6, 1, 28, 28) and pictures.dtype == torch.float32
    assert pictures.min() >= 0 and pictures.max() <= 1 and not pictures.requires_grad
    assert near(pictures[:3], model.draw("circle", 3, 5)) and not near(pictures[:3], pictures[3:])
    assert near(pictures[3:], model.draw(["a cross"], n=3, seed=5)), "neighbours change nothing"
    z = model.latents(3, seed=5)
    inputs = (model.tokenizer or ToyEncoder()).encode(["circle"] * 3)
    assert near(pictures[:3], model.model.draw(inputs, z)), "it is the model's own draw"
    conditions = model.conditions(["circle", "a cross"])
    assert near(pictures[3:], model.decode(z, conditions[1:])), "the widgets' way is the same"
    assert near(model.decode(z[:2], conditions)[1], pictures[4]), "each by its own condition"
    assert model.decode(z[:1], conditions).shape == (2, 1, 28, 28)
    for shape in ((3, model.latent - 1), (3, model.latent), (model.latent,)):
        assert "do not fit" in refusal(model.decode, torch.zeros(shape), conditions)[1]


def test_codes_are_placed_before_they_are_decoded(models):
    model = models["styles"]
    z, conditions = model.latents(3, seed=4), model.conditions(["a four"]).expand(3, -1)
    expected = model.model.decode(model.model.place(z, conditions), conditions).sigmoid()
    assert near(model.draw("a four", 3, seed=4), expected)
    assert not near(expected, model.model.decode(z, conditions).sigmoid())


def test_a_seed_is_a_picture(letters):
    pictures = letters.draw("circle", 4, seed=3)
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    assert torch.equal(pictures, letters.draw("circle", 4, seed=3))
    assert not near(pictures, letters.draw("circle", 4, seed=4))
    assert torch.equal(torch.get_rng_state(), before) and torch.get_num_threads() == threads
    seeds = (0, 1, 7, np.int64(-1), 2**64 - 2, 10**5000 + 3, 2**32, 2**32 - 1, -7,
             torch.tensor(5))  # of any size and kind
    first = [letters.latents(1, seed) for seed in seeds]
    assert len({z.numpy().tobytes() for z in first}) == len(seeds)
    assert torch.equal(letters.latents(1, -1), first[3])


def test_a_longer_list_of_latents_begins_like_a_shorter_one():
    for latent in (1, 3, 16, 33):
        model = TextToImage(ShapesCVAE(latent=latent), {})
        whole = model.latents(50, seed=7)
        assert all(torch.equal(model.latents(n, seed=7), whole[:n]) for n in range(1, 51))


def test_latents_are_standard_normal_times_temperature(letters):
    z = letters.latents(20_000, seed=0)
    assert abs(z.mean()) < 0.01 and abs(z.std() - 1) < 0.01
    assert near(letters.latents(9, 0, 0.5), z[:9] * 0.5) and not letters.latents(9, 0, 0).any()
    cold = letters.draw("circle", 3, temperature=0.3)
    assert near(cold, letters.decode(0.3 * z[:3], letters.conditions("circle")))
    n = generator.CHUNK + 5  # what is drawn in parts is put together in order
    parts = [letters.decode(z[n - 7 : n], letters.conditions("circle")), letters.draw("circle", 3)]
    many = letters.draw("circle", n)
    assert near(many[-7:], parts[0]) and near(many[:3], parts[1])


def test_guidance_and_steps_reach_a_flow_and_nothing_else(models):
    flow = models["flow"]
    z, condition = flow.latents(2, seed=1), flow.conditions(["a four"] * 2)
    usual = flow.draw("a four", 2, 1)
    for asked in ({"guidance": 3.0, "steps": 2}, {"steps": 3}, {"guidance": 0}):
        expected = flow.model.paint(z, condition, **asked)
        assert near(flow.draw("a four", 2, 1, **asked), expected), asked
        assert near(flow.decode(z, condition, **asked), expected), asked
        assert not near(expected, usual), asked
        for model in (models[name] for name in KINDS.keys() - {"flow"}):
            sentence = f'{model.name} is no flow: load "mnist-flow" for guidance and steps.'
            assert refusal(model.draw, "a four", **asked) == (ValueError, sentence)
            assert refusal(model.decode, z, z, **asked) == (ValueError, sentence)


def test_a_number_out_of_range_is_refused_before_anything_is_read(models, monkeypatch):
    pictures = "n, the number of pictures, is {}: give a whole number from 1 to 100,000."
    steps = "The number of steps is {}: give a whole number from 1 to 1,000."
    cases = [
        ({"n": 0}, pictures.format(0)), ({"n": 10**6}, pictures.format(1_000_000)),
        ({"n": 10**5000}, pictures.format("too long to write")),
        ({"temperature": math.nan}, "The temperature is nan: give a number from 0 to 1,000."),
        ({"temperature": -0.1}, "The temperature is -0.1: give a number from 0 to 1,000."),
        ({"guidance": math.inf}, "The guidance is inf: give a number from 0 to 1,000."),
        ({"steps": 0}, steps.format(0)), ({"steps": 1001}, steps.format(1001)),
    ]
    flow = models["flow"]
    monkeypatch.setattr(flow, "conditions", None)
    said = [(asked, refusal(flow.draw, "a four", **asked)) for asked, _ in cases]
    assert said == [(asked, (ValueError, sentence)) for asked, sentence in cases]
    for seed in (0.5, True, torch.tensor(True), np.bool_(True), "1"):
        kind, sentence = refusal(flow.draw, "a four", seed=seed)
        assert kind is TypeError and sentence.endswith(": give a whole number."), seed
    sentence = "The number of all pictures is 100002: give a number from 1 to 100,000."
    assert refusal(flow.draw, ["a four", "one"], 50_001) == (ValueError, sentence)
    z = torch.zeros(1, flow.latent).expand(100_002, -1)
    assert refusal(flow.decode, z, z[:1]) == (ValueError, sentence)


def test_what_is_no_number_is_a_type_error():
    for value in (True, np.True_, "1", "", b"1", [1], 1j, np.ones(9), object, "9" * 500, None):
        for whole in (True, False):
            assert refusal(check_number, value, "It", 0, 1000, whole)[0] is TypeError, value
    for value in (2, 2.0, np.int64(2), np.float16(2), fractions.Fraction(2)):
        assert type(check_number(value, "It", 2, 2)) is float
    assert type(check_number(np.int64(7), "It", 0, 1000, whole=True)) is int


def test_what_is_no_prompt_is_refused(letters):
    class Shape(str, enum.Enum):  # noqa: UP042
        CIRCLE = "circle"

    for prompt in (("circle",), np.str_("circle"), Shape.CIRCLE, [Shape.CIRCLE]):
        assert torch.equal(letters.draw(prompt, 2), letters.draw("circle", 2))
    for prompt in (" \u00a0\u3000", "\n\r\t\x85\u2028", "".join(map(chr, range(32))) + "\x7f\x9b",
                   "\u200b\u200d\u2060\ufeff", "\u202e\u2066", "\u0301\u20e0", "\ufe0e", "\ue000",
                   "", ["a", " "], [], ()):
        assert refusal(letters.draw, prompt) == (ValueError, EMPTY)
    for prompt in ("\ud800", "seven \udcff", ["circle", "a\ud83d"]):
        assert refusal(letters.draw, prompt) == (ValueError, TORN)
    for prompt in ("5", "素敵", "🙂"):
        assert "no letter from a to z" in refusal(letters.draw, prompt)[1]
    for prompt in (None, 7, b"circle", {"circle"}, np.array(["circle"]), (p for p in "ab"), [None],
                   ["circle", 7], [["circle"]], [np.array(["circle"] * 100)]):
        for action in (letters.draw, letters.conditions, letters.understands):
            assert refusal(action, prompt) == (TypeError, NO_TEXT)


def test_understanding_of_letters(letters):
    for prompt in PROMPTS:
        assert letters.understands(prompt.upper() + "!") == (1.0, prompt)
        assert letters.doubt(prompt) == "" and letters.title(prompt) == f'"{prompt}"'
    score, nearest = letters.understands("elcric")  # the same condition, and yet not the prompt
    assert nearest == "circle" and 0.49 < score <= 0.5
    assert letters.understands("triangle").score < score
    assert letters.doubt("triangle").startswith("This is none of the nine prompts; the nearest I")


def test_understanding_of_sentences(toy, models):
    with pytest.raises(CheckpointError, match="was saved without captions: train it again"):
        models["sentences"].doubt("a seven")
    assert len(toy.texts) == 6
    for text in toy.texts:
        score, nearest = toy.understands(text)
        assert score > 0.99 and nearest == text and toy.doubt(text) == ""
    assert toy.understands("I want nine").nearest == "nine"
    score, nearest = toy.understands("a cat")
    doubt = f'This does not read like one digit; the nearest I know is "{nearest}".'
    assert score < 0.01 and nearest in toy.texts and toy.doubt("a cat") == doubt
    assert toy.title("a cat") == '"a cat" (not what I know?)' and toy.title("one") == '"one"'


def test_doubt_begins_at_one_half(toy, monkeypatch):
    for share in (0.6, 0.4):
        logits = torch.tensor([[share, *[1e-9] * 9, 1 - share]]).log()
        monkeypatch.setattr(generator, "familiarity", lambda logits=logits: lambda x: logits)
        assert toy.understands("one").score == pytest.approx(share, abs=1e-4)
        assert bool(toy.doubt("one")) == (share < 0.5)


def test_reading_names_what_the_head_hears(toy, models):
    assert models["letters"].reading("circle") == models["sentences"].reading("a seven") == ""

    def reads(digit, *levels):
        logits = torch.zeros(10 + 24)
        logits[[digit, *(12 + 6 * k + level for k, level in enumerate(levels))]] = 20
        toy.model.head.read.net[-1].weight.data.zero_()
        toy.model.head.read.net[-1].bias.data.copy_(logits)
        return toy.reading("a seven")

    assert reads(7, 3, 3, 3, 3) == "seven" and reads(0, 1, -1, 3, 3) == "zero, thick, leaning left"
    for k, style in enumerate(STYLES):
        for level, name in zip(range(-2, 3), LEVEL_NAMES[style], strict=True):
            assert reads(3, *(level if k == j else 3 for j in range(4))) == f"three, {name}"


@given(st.text(), st.integers())
@settings(max_examples=40)
@example("CON", 0)
@example("../../etc/passwd\0", 10**4000)
@example("a\0b\r\nc\rd\te", np.int64(-1))
def test_a_file_has_a_safe_name_and_gives_its_prompt_back(prompt, seed):
    """To the letter but for NUL, which PNG has no place for."""
    assert re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?", slug(prompt))
    stem = file_stem({"prompt": prompt, "seed": seed})
    assert re.fullmatch(r"\d{8}-\d{6}_[a-z0-9-]{1,40}_seed\d{1,20}", stem)
    image = generator.picture_to_image(torch.rand(1, 28, 28), 1)
    content = generator.png_bytes(image, {"prompt": prompt, "steps": 3})
    with Image.open(io.BytesIO(content)) as image:
        image.load()
        assert image.text == {"prompt": prompt.replace("\0", ""), "steps": "3"}


def test_saved_pictures_are_new_files_that_say_how_they_were_made(tmp_path):
    assert slug("Print number 5!") == "print-number-5" and slug("素敵") == "prompt"
    assert file_stem({"prompt": "a/b", "seed": -1}).endswith(f"_a-b_seed{2**64 - 1}")
    facts = {"prompt": "a <seven> ☺\x00", "seed": 4, "checkpoint": "mnist-cvae"}
    pictures, folder = torch.rand(2, 1, 28, 28), tmp_path / "new" / "folder"
    paths = [save_picture(pictures[k], folder, facts, k + 1) for k in (0, 1, 0, 1)]
    assert len(set(paths)) == 4 and {*paths} == {*folder.iterdir()}
    assert [path.name.split("_")[-1][0] for path in paths] == ["1", "2", "1", "2"]
    with Image.open(paths[1]) as image:
        assert image.size == (224, 224)
        assert image.text == facts | {"prompt": "a <seven> ☺", "seed": "4", "index": "2"}
        assert abs(image.getpixel((4, 4)) / 255 - (1 - pictures[1, 0, 0, 0])) < 0.01, "dark ink"


@pytest.mark.parametrize("links", [True, False])
def test_who_saves_at_once_overwrites_nobody(tmp_path, monkeypatch, links):
    """Another takes the name at the last moment; some file systems know no links."""
    real = {name: getattr(os, name) for name in ("link", "replace")}

    def quicker(name, *paths):
        if not (tmp_path / "x.png").exists():
            (tmp_path / "x.png").write_bytes(b"another's")
        if name == "link" and not links:
            raise PermissionError(1, "This file system knows no links")
        real[name](*paths)

    for name in real:
        monkeypatch.setattr(os, name, functools.partial(quicker, name))
    contents = [b"%d" % k for k in range(150)]
    with ThreadPoolExecutor(6) as pool:
        paths = [*pool.map(lambda content: write_new(tmp_path, "x", content), contents)]
    assert [path.read_bytes() for path in paths] == contents
    assert (tmp_path / "x.png").read_bytes() == b"another's" and len({*tmp_path.iterdir()}) == 151


def test_nothing_is_left_half(tmp_path, monkeypatch):
    def full(path, content):
        path.touch()
        raise OSError(28, "No space left on device", str(path))

    assert write_new(tmp_path, "x", b"one").read_bytes() == b"one"
    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    with pytest.raises(OSError, match="No space"):
        write_new(tmp_path, "x", b"two")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"one"]
