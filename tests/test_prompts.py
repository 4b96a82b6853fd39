"""The held-out prompts in data/prompts: their form, and that nothing trains on them."""

import re

import pytest
import torch
from test_captions import word_edits, words_of

from helpers.captions import WORDS, all_captions, write_caption
from helpers.everyday import (
    PROMPTS,
    caption_pictures,
    load_prompts,
    normal_form,
    one_slip,
    training_slips,
    write_others,
)
from helpers.styles import LEVELS, PHRASINGS, STYLES, known_captions, styled_captions

COUNTS = {
    "messy": 200, "typos": 120, "indirect": 80, "far": 160, "near": 140, "negations": 40,
    "styled": 86, "synonyms": 37,
}
SIZES = {"thin": 10, "thick": 10, "left": 10, "right": 10, "upright": 8, "narrow": 8, "wide": 8}
NUMBER = re.compile(rf"(?<![a-z0-9])(?:{'|'.join(WORDS)}|\d)(?:e?s)?(?![a-z0-9])")


def texts_of(name):
    """List all that a file asks: templates are filled with every digit, as word and numeral."""
    rows = [row.text for row in load_prompts(name)]
    if name not in ("styled", "synonyms"):
        return rows
    return [write_caption(row, d, numeral) for row in rows for d in range(10) for numeral in (0, 1)]


@pytest.fixture(scope="module", name="captions")
def fixture_captions():
    """A large sample of the captions of training, part of it just so: see `write_corpus`."""
    generator = torch.Generator().manual_seed(0)
    levels = torch.randint(len(LEVELS), (20_000, len(STYLES)), generator=generator) - 2
    digits = torch.randint(10, (20_000,), generator=generator)
    return [
        *caption_pictures(levels, digits, seed=1)[0], *caption_pictures(levels, digits)[0],
        *known_captions(), *styled_captions(5000, seed=1)[0], *all_captions(PHRASINGS)[0],
    ]


@pytest.fixture(scope="module", name="trained_on")
def fixture_trained_on(captions):
    """Those captions, and the sentences of training that ask for no digit."""
    return [*captions, *write_others(20_000), *write_others(5000, seed=1)]


def test_these_files_and_no_others():
    assert {path.stem for path in PROMPTS.iterdir()} == set(COUNTS)


@pytest.mark.parametrize("name", COUNTS)
def test_form(name):
    content = (PROMPTS / f"{name}.txt").read_bytes()
    assert b"\r" not in content and content.endswith(b"\n")
    lines = content.decode().splitlines()
    notes = [line for line in lines if line.startswith("# ")]
    assert lines[: len(notes)] == notes and len(notes) >= 3, "the notes stand at the top"
    assert any("Nothing trains on these" in note for note in notes)
    rows = load_prompts(name)
    assert len(rows) == COUNTS[name]
    sections = [line for line in lines if line.startswith("## ")]
    assert len(set(sections)) == len(sections) >= 2
    assert all(row.kind and row.text.strip() for row in rows)
    assert len({row.text for row in rows}) == len(rows)
    assert {f"## {row.kind}" for row in rows} == set(sections)
    assert len(rows) + len(sections) + len(notes) == sum(1 for line in lines if line.strip())


@pytest.mark.parametrize("name", ["messy", "typos", "indirect", "negations"])
def test_answers_are_digits_and_all_ten_occur(name):
    answers = [row.answer for row in load_prompts(name)]
    assert set(answers) == set("0123456789")
    if name in ("messy", "indirect", "negations"):
        assert len({answers.count(digit) for digit in "0123456789"}) == 1, "equally often"


@pytest.mark.parametrize("name", ["far", "near"])
def test_others_have_no_answer(name):
    assert {row.answer for row in load_prompts(name)} == {"-"}


def test_messy_prompts_name_their_digit():
    for row in load_prompts("messy"):
        bare = re.sub(r"\s+", "", row.text.lower())
        assert WORDS[int(row.answer)] in re.sub(r"[^a-z]", "", bare) or row.answer in bare, row


def test_far_prompts_name_no_digit():
    for row in load_prompts("far"):
        assert not NUMBER.search(row.text.lower()), row


# typos


def test_typos_are_one_slip_away():
    for row in load_prompts("typos"):
        answer = int(row.answer)
        assert row.text in one_slip(WORDS[answer]), row
        others = [word for word in WORDS if row.text in one_slip(word) or row.text == word]
        assert others == [WORDS[answer]], f"{row} could be {others}"


def test_typos_by_kind():
    def shape(row):
        word = WORDS[int(row.answer)]
        if len(row.text) < len(word):
            return "left out"
        if len(row.text) > len(word):
            doubled = [word[:i] + word[i] + word[i:] for i in range(len(word))]
            return "doubled" if row.text in doubled else "letter too many"
        return "swapped" if sorted(row.text) == sorted(word) else "wrong letter"

    for row in load_prompts("typos"):
        assert shape(row) == row.kind, row


def test_no_typo_is_trained_on(captions):
    tested = {row.text for row in load_prompts("typos")}
    assert not tested & {slip for slips in training_slips() for slip in slips}
    words = {word for text in captions for word in re.findall(r"[a-z]+", text.lower())}
    assert not tested & words


# templates


@pytest.mark.parametrize("name", ["styled", "synonyms"])
def test_templates(name):
    directions = {
        "thin": "thickness -1", "very thin": "thickness -2", "thick": "thickness 1",
        "very thick": "thickness 2", "left": "slant -1", "right": "slant 1", "upright": "slant 0",
        "narrow": "width -1", "wide": "width 1", "small": "size -1", "big": "size 1",
    }
    for row in load_prompts(name):
        assert row.answer == directions[row.kind], row
        assert re.findall(r"\{\w+\}", row.text) in (["{digit}"], ["{a}"]), row
        for digit in range(10):
            prompt = write_caption(row.text, digit)
            assert len(re.findall(NUMBER, prompt.lower())) == 1, prompt


def test_enough_templates():
    kinds = [row.kind for row in load_prompts("styled")]
    for kind, size in SIZES.items():
        assert kinds.count(kind) >= size, kind
    assert {row.kind for row in load_prompts("synonyms")} >= set(SIZES)


def test_templates_differ_from_training_phrasings_in_more_than_one_word():
    """Every gap counts as the same word, with or without an article."""
    def flat(text):
        words = words_of(re.sub(r"\ban? \{digit\}", "{a}", text))
        return ["{}" if word.startswith("{") else word for word in words]

    known = [flat(phrasing) for phrasing in PHRASINGS]
    for row in load_prompts("styled"):
        words = flat(row.text)
        nearest = min(known, key=lambda other: word_edits(words, other))
        assert word_edits(words, nearest) >= 2, f"{row.text!r} is close to {' '.join(nearest)!r}"


def test_synonyms_are_words_that_no_training_caption_has(trained_on):
    vocabulary = {word for text in trained_on for word in re.findall(r"[^\W\d_]+", text.lower())}
    for row in load_prompts("synonyms"):
        words = re.findall(r"[^\W\d_]+", re.sub(r"\{\w+\}", "", row.text.lower()))
        assert set(words) - vocabulary, f"every word of {row.text!r} is known"


# held apart


@pytest.mark.parametrize("name", COUNTS)
def test_nothing_trains_on_these(trained_on, name):
    """Not even in another case, with other spaces or other punctuation."""
    known = {normal_form(text): text for text in trained_on}
    both = {text: known[normal_form(text)] for text in texts_of(name) if normal_form(text) in known}
    listed = ", ".join(f"{ours!r} as {theirs!r}" for ours, theirs in both.items())
    assert not both, f"{len(both)} of {name} are trained on: {listed}"


@pytest.mark.parametrize(
    ("text", "bare"),
    [
        ("  Draw  a SEVEN!! ", "draw a seven"), ('"7"', "7"), ("-8", "-8"), ("3.5", "3.5"),
        ("??!", "??!"), ("~~ eight ~~", "eight"), ("- draw 8", "draw 8"), ("x_1", "x 1"),
        ("7th", "7th"), ("½", "½"), ("猫の絵", "猫の絵"),
    ],
)
def test_normal_form(text, bare):
    assert normal_form(text) == bare
