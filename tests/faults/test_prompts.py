"""Prompts and numbers as nobody should type them: one sentence each, or a picture."""

import decimal
import enum
import fractions
import math
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from helpers import TextToImage
from helpers.__main__ import main
from helpers.generator import (
    MOST_PICTURES,
    MOST_STEPS,
    check_count,
    check_guidance,
    check_prompts,
    check_steps,
    check_temperature,
    file_stem,
    save_pictures,
    sentence_encoder,
    slug,
)

LETTER_MODELS = ("shapes-cvae", "shapes-mlp")
SENTENCE_MODELS = ("mnist-cvae", "mnist-style", "mnist-flow")
RESERVED = {"CON", "PRN", "AUX", "NUL"} | {f"{port}{k}" for port in ("COM", "LPT") for k in "123"}
LONG = 10_000
BLANK = {
    "nothing": "",
    "spaces": " \u00a0\u2003\u3000",
    "lines": "\n\r\t\x0b\x0c\x85\u2028\u2029",
    "control": "".join(map(chr, range(32))) + "\x7f\x9b",
    "NUL": "\0",
    "zero width": "\u200b\u200c\u200d\u2060\ufeff",
    "direction": "\u200e\u200f\u202a\u202e\u2066\u2069",
    "marks": "\u0301\u0489\u20e0",
    "variation": "\ufe00\ufe0e\ufe0f",
    "private": "\ue000\U0010fffd",
}
ALPHABETS = [
    *(letters for letters in BLANK.values() if letters),
    "abcxyz \0",
    "aé\u0301\u200d\ufe0f ",
    "שלוםمرحبا\u202e a",
    "👍🏽👩‍🚀🇩🇪7️⃣",
    "İıßKſﬁ①Ⅶ٣७",
    "\"'`$(){}[]<>|;&\\/.%*?~#!:-_=\n",
]


def longer(text, times):
    return (text * times)[:LONG]


surrogates = st.text(st.characters(categories=("Cs", "L")), min_size=1)
texts = st.builds(
    longer,
    st.one_of(st.text(), surrogates, *map(st.text, ALPHABETS), st.text("circle ", min_size=1)),
    st.sampled_from([1, 1, 1, 40, LONG]),
)
readable = texts.filter(lambda text: any(c.isalnum() for c in text)).map(
    lambda text: "".join(c for c in text if not "\ud800" <= c <= "\udfff") + "7"
)


@pytest.fixture(scope="module", params=LETTER_MODELS)
def letters(request):
    return TextToImage.load(request.param, device="cpu")


@pytest.fixture(scope="module", params=SENTENCE_MODELS)
def sentences(request):
    return TextToImage.load(request.param, device="cpu")


@pytest.fixture(scope="module")
def model():
    return TextToImage.load("shapes-cvae", device="cpu")


@pytest.fixture(scope="module")
def flow():
    return TextToImage.load("mnist-flow", device="cpu")


def refusal(kind, action, *arguments, **settings):
    """Return what an action says that must refuse: one short line that ends with a full stop."""
    with pytest.raises(kind) as raised:
        action(*arguments, **settings)
    message = str(raised.value)
    assert raised.type is kind and len(message.splitlines()) == 1 and message.endswith(".")
    return message


def is_a_drawing(pictures, n):
    assert pictures.shape == (n, 1, 28, 28) and pictures.dtype == torch.float32
    assert pictures.isfinite().all() and pictures.min() >= 0 and pictures.max() <= 1
    return True


# ---- any text ----------------------------------------------------------------------------------


@given(texts)
@settings(max_examples=400)
def test_a_prompt_is_taken_as_it_is_or_refused_in_a_line(prompt):
    try:
        assert check_prompts(prompt) == check_prompts([prompt]) == [prompt]
    except ValueError:
        assert len(refusal(ValueError, check_prompts, prompt)) < 100
        torn = any("\ud800" <= c <= "\udfff" for c in prompt)
        assert torn or not any(c.isalnum() for c in prompt)
    else:
        prompt.encode()
        assert any(c.isprintable() and not c.isspace() for c in prompt)


@pytest.mark.parametrize("blank", BLANK)
def test_a_prompt_without_anything_to_see_is_empty(sentences, blank):
    for prompt in (BLANK[blank], BLANK[blank] * 2, BLANK[blank][::-1], ["a", BLANK[blank]]):
        message = "The prompt is empty: write what to draw, as in \"a seven\"."
        assert refusal(ValueError, sentences.draw, prompt) == message
        assert refusal(ValueError, sentences.conditions, prompt) == message


@given(texts.filter(lambda text: not any("\ud800" <= c <= "\udfff" for c in text)))
@settings(max_examples=120)
@example("7 7")
@example("7" * 40 + "a")
@example(" " * 32 + "late")
def test_models_of_letters_draw_what_has_a_letter(letters, prompt):
    actions = letters.draw, letters.understands, letters.doubt, letters.title
    heard = [c for c in prompt.lower() if c in " abcdefghijklmnopqrstuvwxyz"][:32]
    try:
        pictures = letters.draw(prompt, 2, seed=1)
    except ValueError:
        assert not "".join(heard).strip()
        messages = {refusal(ValueError, action, prompt) for action in actions}
        assert len(messages) == 1 and letters.reading(prompt) == ""
        return
    assert "".join(heard).strip()
    assert is_a_drawing(pictures, 2) and torch.equal(pictures, letters.draw(prompt, 2, seed=1))
    score, _ = letters.understands(prompt)
    assert 0 <= score <= 1 and letters.reading(prompt) == ""
    assert bool(letters.doubt(prompt)) == (score <= 0.5) == letters.title(prompt).endswith("?)")
    assert letters.title(prompt).startswith(f'"{prompt}"')


@given(readable)
@settings(max_examples=25)
@example("seven " * 2000)
@example("7" * LONG)
@example("\u202eneves")
def test_models_of_sentences_draw_whatever_can_be_read(sentences, prompt):
    pictures = sentences.draw(prompt, 2, seed=1)
    sentence_encoder().cache.clear()
    assert is_a_drawing(pictures, 2) and torch.equal(pictures, sentences.draw(prompt, 2, seed=1))
    score, nearest = sentences.understands(prompt)
    assert 0 <= score <= 1 and nearest
    assert bool(sentences.doubt(prompt)) == (score <= 0.5) == sentences.title(prompt).endswith("?)")
    assert sentences.title(prompt).startswith(f'"{prompt}"')
    assert sentences.reading(prompt).count("\n") == 0


def test_bytes_that_are_no_text(model, sentences):
    for prompt in ("\udc80", "a\ud83d", "seven \udcff seven", ["a seven", "\ud800"]):
        message = "The prompt holds bytes that are not text: type it again."
        assert refusal(ValueError, model.draw, prompt) == message
        assert refusal(ValueError, sentences.conditions, prompt) == message
    assert refusal(ValueError, sentences.understands, "a seven \udcff") == message


def test_no_letter_and_no_prompt(model, sentences):
    for prompt in ("5", "素敵", "🙂", "12!"):
        assert "no letter from a to z" in refusal(ValueError, model.draw, prompt)
        assert is_a_drawing(sentences.draw(prompt), 1)
    assert "list of prompts is empty" in refusal(ValueError, model.draw, [])
    assert "list of prompts is empty" in refusal(ValueError, model.draw, ())


# ---- what is no text ---------------------------------------------------------------------------


class Word(str):
    pass


class Shape(str, enum.Enum):  # noqa: UP042
    CIRCLE = "circle"


@pytest.mark.parametrize(
    "prompts",
    [["circle"], ("circle",), np.str_("circle"), [np.str_("circle")], Word("circle"),
     Shape.CIRCLE, [Shape.CIRCLE]],
    ids=repr,
)
def test_other_kinds_of_text_are_drawn_like_the_plain_one(model, sentences, prompts):
    for reader in (model, sentences):
        assert torch.equal(reader.draw(prompts, 2), reader.draw("circle", 2))


@pytest.mark.parametrize(
    "prompts",
    [
        None, 7, 1.5, True, b"circle", bytearray(b"circle"), Path("circle"), object(), str,
        {"circle"}, {"circle": 1}, np.array(["circle"]), torch.zeros(2), range(2),
        (p for p in ["circle"]), map(str, "ab"), [None], [7], ["circle", 7], ["circle", b"circle"],
        [["circle"]], [("circle",)], [np.array(["circle"] * 100)], ["circle", math.nan],
    ],
    ids=lambda prompts: str(prompts)[:20],
)
def test_what_is_no_text_is_a_type_error(model, sentences, prompts):
    for action in (model.draw, model.conditions, model.understands, sentences.draw):
        assert "A prompt is text" in refusal(TypeError, action, prompts)


def test_what_is_given_is_not_changed(model, tmp_path):
    prompts, facts = ["circle", "CROSS "], {"prompt": "circle\0", "seed": -1}
    z, conditions = model.latents(2), model.conditions(prompts)
    before = prompts.copy(), facts.copy(), z.clone(), conditions.clone()
    pictures = model.draw(prompts)
    kept = pictures.clone()
    model.decode(z, conditions)
    save_pictures(pictures, tmp_path, facts)
    assert before[:2] == (prompts, facts) and torch.equal(pictures, kept)
    assert torch.equal(before[2], z) and torch.equal(before[3], conditions)


# ---- files -------------------------------------------------------------------------------------


@given(texts, st.integers() | st.integers(-2**63, 2**63 - 1).map(np.int64))
@example("CON", 0)
@example("nul.txt", -1)
@example("../../etc/passwd\0", 10**4000)
def test_names_of_files_are_safe_on_every_system(prompt, seed):
    assert re.fullmatch(r"[a-z0-9-]{1,40}", slug(prompt))
    stem = file_stem({"prompt": prompt, "seed": seed})
    assert re.fullmatch(r"\d{8}-\d{6}_[a-z0-9-]{1,40}_seed\d{1,20}", stem)
    assert stem.upper() not in RESERVED and stem.split("_")[0].upper() not in RESERVED


@given(texts.filter(lambda text: not any("\ud800" <= c <= "\udfff" for c in text)))
@settings(max_examples=60)
@example("a\0b\r\nc\rd\te")
@example("NUL")
def test_a_file_gives_its_prompt_back(prompt):
    """To the letter but for NUL, which PNG has no place for and no reader of ours hears."""
    facts = {"prompt": prompt, "seed": np.int64(3), "temperature": np.float32(0.5)}
    with tempfile.TemporaryDirectory() as folder:
        (path,) = save_pictures(torch.rand(1, 1, 28, 28), folder, facts)
        assert list(Path(folder).iterdir()) == [path]
        with Image.open(path) as image:
            image.load()
            found = image.text
    assert found == {
        "prompt": prompt.replace("\0", ""), "seed": "3", "temperature": "0.5", "index": "1"
    }


def test_no_reader_hears_a_nul(model, sentences):
    with_nul, without = "\0a c\0ross\0", "a cross"
    for reader in (model, sentences):
        assert torch.equal(reader.draw(with_nul, 2), reader.draw(without, 2))


def test_a_prompt_that_no_file_can_hold_leaves_none(tmp_path):
    with pytest.raises(UnicodeEncodeError):
        save_pictures(torch.rand(1, 1, 28, 28), tmp_path / "new", {"prompt": "\ud800", "seed": 0})
    assert not (tmp_path / "new").exists()


# ---- the command line --------------------------------------------------------------------------

NASTY = [
    "-x", "--help", "--out=elsewhere", "--", "$(touch x)", "`touch y`; touch z", "a > w",
    "'a' \"b\"", "two\nlines\r\n", "../../a", "a\0b", "<b>a</b>", "%s {a} %(a)s", "\x1b[31mred",
    "a" * LONG, "café \u202e na\u0308ive 👩‍🚀", "\\a\\b",
]


def run_draw(folder, prompt, *more):
    options = ["--checkpoint", "shapes-cvae", "--no-preview", "--out", str(folder / "out"), *more]
    return main(["draw", *options, "--", prompt])


@pytest.mark.parametrize("prompt", NASTY, ids=lambda prompt: repr(prompt)[:30])
def test_a_nasty_prompt_is_drawn_and_does_nothing_else(prompt, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status = run_draw(tmp_path, prompt)
    printed = capsys.readouterr()
    if prompt == "--":  # which argparse of some Pythons takes away
        assert status in (0, 2) and "Traceback" not in printed.err
        return
    (path,) = (tmp_path / "out").iterdir()
    assert status == 0 and printed.out == f"{path}\n" and list(tmp_path.iterdir()) == [path.parent]
    assert printed.err.count("\n") <= 1, "one sentence of doubt"
    with Image.open(path) as image:
        assert image.text["prompt"] == prompt.replace("\0", "")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["draw", "-x"], "required: prompt"),
        (["draw", "circle", "two\nlines"], "nrecognized arguments: two lines"),
        (["draw", "circle", "--seed", "1" * 5000], "--seed: invalid int value: …"),
        (["draw", "circle", "--seed", "1\n2"], "--seed: invalid int value"),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_nasty_usage_is_one_short_sentence(capsys, arguments, words):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    printed = capsys.readouterr()
    assert ended.value.code == 2 and printed.out == "" and words in printed.err
    assert printed.err.count("\n") == 1 and len(printed.err) < 300


@pytest.mark.skipif(sys.platform != "linux", reason="bytes that are no text, in a command")
@pytest.mark.parametrize("words", [b"caf\xc3\xa9 circle", b"circle \xff\xfe", b"--\x80"])
def test_bytes_on_the_command_line(words, tmp_path):
    command = [sys.executable, "-m", "helpers", "draw", words, "--checkpoint", "shapes-cvae"]
    done = subprocess.run(
        [*command, "--no-preview", "--out", "out"], cwd=tmp_path, capture_output=True, check=False
    )
    if b"\xc3" in words:
        (path,) = (tmp_path / "out").iterdir()
        assert done.returncode == 0 and Image.open(path).text["prompt"] == "café circle"
        return
    assert done.returncode == 2 and done.stdout == b"" and not list(tmp_path.iterdir())
    if words.startswith(b"--"):
        assert b"equired: prompt" in done.stderr and done.stderr.count(b"\n") == 1
        return
    assert done.stderr == b"The prompt holds bytes that are not text: type it again.\n"


# ---- numbers -----------------------------------------------------------------------------------

NO_NUMBERS = [
    True, np.True_, "1", "", b"1", [1], {}, 1j, decimal.Decimal(1), np.ones((2, 9)),
    torch.ones(9, 9), object,
]
NO_WHOLE_NUMBERS = [
    *NO_NUMBERS, None, 1.0, 1.5, np.float64(1), fractions.Fraction(3), math.nan, math.inf, "9" * 500
]
HUGE = [10**5, 10**6, 2**63, 10**30, 10**400, 10**5000]
short_names = pytest.mark.parametrize(
    "value", NO_WHOLE_NUMBERS, ids=lambda value: " ".join(str(value).split())[:20]
)


@short_names
def test_what_is_no_whole_number(model, flow, value):
    for name in ("n", "seed"):
        message = refusal(TypeError, model.draw, "circle", **{name: value})
        assert message.endswith(": give a whole number.") and len(message) < 150
    refusal(TypeError, model.latents, value)
    if value is not None:
        message = refusal(TypeError, flow.draw, "a seven", steps=value)
        assert message.endswith(": give a whole number.") and len(message) < 150


@pytest.mark.parametrize("n", [0, -1, np.int64(-3), -(10**30), -(10**5000)], ids=lambda n: "n")
def test_fewer_than_one_picture(model, n):
    for action in (check_count, model.latents, lambda n: model.draw("circle", n)):
        message = refusal(ValueError, action, n)
        assert message.endswith(": ask for at least 1.") and len(message) < 150


@pytest.mark.parametrize("n", [MOST_PICTURES + 1, *HUGE[1:], np.uint64(2**63)], ids=lambda n: "n")
def test_more_pictures_than_fit(model, n):
    for action in (check_count, model.latents, lambda n: model.draw("circle", n)):
        message = refusal(ValueError, action, n)
        words = ": ask for at most 100,000 at once, and for more with other seeds."
        assert message.startswith("The number of pictures is ") and message.endswith(words)
        assert len(message) < 160


def test_as_many_pictures_as_fit_are_counted_over_all_prompts(model):
    assert check_count(MOST_PICTURES) == check_count(50_000, 2) * 2 == 100_000
    assert check_count(np.int64(3)) == 3 and type(check_count(np.int64(3))) is int
    with pytest.raises(ValueError, match=r"^The number of pictures is 100002: ask for at most"):
        model.draw(["circle", "cross"], 50_001)
    with pytest.raises(ValueError, match=r"^The number of pictures is 100001: ask for at most"):
        model.decode(torch.zeros(1, model.latent).expand(100_001, -1), model.conditions("circle"))


def test_seeds_of_any_size_and_kind(model):
    latents = {seed: model.latents(1, seed) for seed in (0, -1, -(10**30), *HUGE)}
    assert torch.equal(latents[-1], model.latents(1, 2**64 - 1))
    assert torch.equal(model.latents(1, np.int64(-1)), latents[-1])
    assert torch.equal(model.latents(1, np.uint8(0)), latents[0])
    assert not torch.equal(latents[0], latents[-1])


REAL = {"temperature": check_temperature, "guidance": check_guidance}


@pytest.mark.parametrize("name", REAL)
def test_what_is_no_number(flow, name):
    for value in [*NO_NUMBERS, *([None] if name == "temperature" else [])]:
        message = refusal(TypeError, flow.draw, "a seven", **{name: value})
        assert re.fullmatch(rf"The {name} is .*: give a number, as in 1\.[05]\.", message)
        assert len(message) < 150


@pytest.mark.parametrize("name", REAL)
def test_numbers_beyond_any_use(flow, name):
    nans = [math.nan, np.float16("nan"), np.float64("nan"), math.inf, -math.inf, np.float32("inf")]
    low = [-1e-300, -0.1, -1, -(10**5000), fractions.Fraction(-1, 3), np.int64(-1)]
    high = [1000.001, 1e300, *HUGE, fractions.Fraction(10**5000, 3), np.longdouble(1e300)]
    for value in nans + low + high:
        message = refusal(ValueError, flow.draw, "a seven", **{name: value})
        assert re.fullmatch(rf"The {name} is .*: give a finite number, 0 to 1000\.", message)
        assert len(message) < 150


@pytest.mark.parametrize("check", REAL.values(), ids=REAL)
def test_every_kind_of_number_that_is_one(check):
    for value in (
        2, 2.0, np.int64(2), np.uint8(2), np.float16(2), np.float64(2), fractions.Fraction(2)
    ):
        assert check(value) == 2.0 and type(check(value)) is float
    assert check(0) == check(-0.0) == 0 and check(1000) == 1000
    assert check(fractions.Fraction(1, 10**400)) == 0


def test_steps_out_of_range(flow):
    for steps in (0, -1, -(10**5000), MOST_STEPS + 1, *HUGE, np.int64(-7)):
        message = refusal(ValueError, flow.draw, "a seven", steps=steps)
        assert message.endswith(": give 1 to 1000.") and len(message) < 150
    assert check_steps(np.int64(7)) == 7 and type(check_steps(np.int64(7))) is int


def test_pictures_of_the_hottest_latents_are_pictures(letters, sentences):
    for reader, prompt in ((letters, "circle"), (sentences, "a bold seven")):
        assert is_a_drawing(reader.draw(prompt, 20, temperature=1000), 20)


@pytest.mark.parametrize("guidance", [0, 1000])
@pytest.mark.parametrize("steps", [1, 1000])
def test_pictures_of_the_strongest_guidance_are_pictures(flow, guidance, steps):
    for temperature in (0, 1000):
        assert is_a_drawing(flow.draw("a seven", 2, 0, temperature, guidance, steps), 2)


@pytest.mark.parametrize("count", ["100001", "1000000", "1" + "0" * 400])
def test_too_many_on_the_command_line(count, tmp_path, capsys):
    assert run_draw(tmp_path, "circle", "--count", count) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and not list(tmp_path.iterdir()) and printed.err.count("\n") == 1
    assert printed.err.endswith("at most 100,000 at once, and for more with other seeds.\n")


# ---- memory ------------------------------------------------------------------------------------

MEMORY = """
import resource, sys, torch
from helpers import TextToImage
def gigabytes():
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used / (1e9 if sys.platform == "darwin" else 1e6)
"""
REFUSED = """
model = TextToImage.load("shapes-cvae", device="cpu")
condition = model.conditions("circle")
model.draw("circle", 2)
before = gigabytes()
for ask in (
    lambda: model.draw("circle", 10**9),
    lambda: model.draw(["circle"] * 10**4, 10**5),
    lambda: model.latents(10**9),
    lambda: model.decode(torch.zeros(1, model.latent).expand(10**9, -1), condition),
):
    try:
        ask()
    except ValueError as error:
        print(error)
assert gigabytes() - before < 0.03, gigabytes() - before
"""
DRAWN = """
model = TextToImage.load(NAME, device="cpu")
pictures = model.draw("a bold seven", COUNT)
assert pictures.shape == (COUNT, 1, 28, 28) and pictures.mean() > 0.02
print(gigabytes())
"""


def child(code):
    done = subprocess.run(
        [sys.executable, "-c", MEMORY + code], capture_output=True, text=True, check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_a_billion_pictures_are_refused_before_any_memory_is_taken():
    lines = child(REFUSED)
    assert len(lines) == 4 and all("ask for at most 100,000 at once" in line for line in lines)


@pytest.mark.parametrize(
    ("name", "count"), [("mnist-cvae", 100_000), ("mnist-style", 100_000), ("mnist-flow", 3000)]
)
def test_as_many_pictures_as_may_be_asked_for_fit_in_two_gigabytes(name, count):
    (used,) = child(DRAWN.replace("NAME", repr(name)).replace("COUNT", str(count)))
    assert float(used) < 2
