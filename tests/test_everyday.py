"""Captions as people type them: roughened they mean the same, and others ask for no digit."""

import random
import re

import pytest
import torch

from helpers import everyday
from helpers.captions import TRAINING_PHRASINGS, WORDS, all_captions
from helpers.everyday import (
    caption_pictures,
    load_prompts,
    normal_form,
    one_slip,
    roughen,
    training_slips,
    write_other,
    write_others,
)
from helpers.styles import HELD_OUT_CELLS, LEVELS, UNSAID, held_out

# "one" inside "someone" is no number, and a heart is none either
NUMBER = re.compile(rf"(?<![a-z0-9<])({'|'.join(WORDS)}|\d)(?:e?s)?(?![a-z0-9])")
ALPHABET = "abcdefghijklmnopqrstuvwxyz"


def digits_in(text):
    """List the digits that a text names, in order; "one more" names none."""
    names = NUMBER.findall(re.sub(r"\bone\s+more\b", "", text.lower()))
    return [int(name) if name.isdigit() else WORDS.index(name) for name in names]


def random_pictures(n, seed=0):
    """Levels (n, 4) and digits (n,) of pictures that do not exist."""
    generator = torch.Generator().manual_seed(seed)
    levels = torch.randint(len(LEVELS), (n, 4), generator=generator) - 2
    return levels, torch.randint(10, (n,), generator=generator)


# roughen


@pytest.mark.parametrize("numeral", [False, True])
@pytest.mark.parametrize("digit", range(10))
def test_roughening_keeps_the_digit_and_brings_no_other(digit, numeral):
    rng = random.Random(digit)
    captions = all_captions(TRAINING_PHRASINGS)[0][2 * digit + numeral :: 20]
    for caption in captions:
        if "one more" in caption:  # a filler may stand between the two
            continue
        for _ in range(3):
            rough = roughen(caption, rng)
            assert set(digits_in(rough)) == {digit}, f"{caption!r} became {rough!r}"


def test_roughening_changes_something_and_keeps_the_words():
    rng, kinds = random.Random(0), set()
    for _ in range(2000):
        rough = roughen("please draw a seven", rng)
        assert rough != "please draw a seven"
        words = iter(re.findall(r"[a-z]+", rough.lower()))
        assert all(word in words for word in ("please", "draw", "a", "seven")), rough  # in order
        kinds |= {rough.isupper(), "  " in rough, rough.istitle()}
        assert len(rough) < 300
    assert kinds == {True, False}


def test_same_seed_same_roughness():
    def rough(seed):
        rng = random.Random(seed)
        return [roughen("a nine", rng) for _ in range(20)]

    assert rough(1) == rough(1) != rough(2)


def test_what_is_said_besides_names_no_number_and_no_style():
    """No greeting, aside or mark may ask for anything itself."""
    parts = everyday._GREETINGS + everyday._THANKS + everyday._ASIDES + everyday._FILLERS
    plain = r"\b(thin|thick|bold|heavy|fine|narrow|wide|left|upright|straight|big|small)\b"
    for text in (*parts, *everyday._MARKS, *everyday._LABELS):
        assert not digits_in(text), text
        assert not re.search(plain, text), text
    for label in everyday._LABELS:
        assert label.count("{}") == 1


# slips


def test_one_slip_of_a_short_word():
    slips = one_slip("ab")
    assert len(slips) == len(set(slips)) and "ab" not in slips
    assert {"ba", "aab", "abb", "cb", "ac", "xab", "abx", "axb"} <= set(slips)
    # swapped 1, replaced 2 × 25, added 3 × 26 less 2 that come twice; single letters are left out
    assert "a" not in slips and "b" not in slips
    assert len(slips) == len({"ba"} | {x + "b" for x in ALPHABET} | {"a" + x for x in ALPHABET}
                             | {x + "ab" for x in ALPHABET} | {"a" + x + "b" for x in ALPHABET}
                             | {"ab" + x for x in ALPHABET} - {"ab"}) - 1


def test_one_slip_is_symmetric_where_it_should_be():
    for word in WORDS:
        for slip in one_slip(word):
            assert abs(len(slip) - len(word)) <= 1
            assert word in one_slip(slip), (word, slip)


def test_training_slips():
    slips = training_slips()
    assert len(slips) == 10 and all(len(words) >= 100 for words in slips)
    every = [slip for words in slips for slip in words]
    assert len(set(every)) == len(every), "no slip stands for two digits"
    assert not set(every) & set(WORDS)
    assert not set(every) & {prompt.text for prompt in load_prompts("typos")}
    assert not set(every) & everyday._REAL_WORDS
    for digit, words in enumerate(slips):
        for slip in words:
            near = [word for word in WORDS if slip in one_slip(word)]
            assert near == [WORDS[digit]], slip


@pytest.mark.parametrize(
    "word", ["tow", "to", "too", "tree", "there", "for", "fire", "live", "fix", "sit", "even",
             "seventy", "night", "eighty", "line", "none", "done", "on", "won", "hero"],
)
def test_words_of_their_own_are_no_slips(word):
    assert all(word not in words for words in training_slips())


# what asks for no single digit


@pytest.mark.parametrize(
    "kind", ["_a_thing", "_a_styled_thing", "_a_letter", "_nonsense"],
)
def test_plain_others_name_no_digit(kind):
    rng = random.Random(0)
    for _ in range(2000):
        text = getattr(everyday, kind)(rng)
        assert text.strip() and not digits_in(text), text


def test_conversation_names_no_digit():
    for text in everyday._ABOUT + everyday._ASIDES + everyday._ABROAD:
        assert not digits_in(text), text


def test_choices_name_two_digits():
    rng = random.Random(0)
    for _ in range(1000):
        text = everyday._a_choice(rng)
        assert len(set(digits_in(text))) == 2, text


@pytest.mark.parametrize(
    ("kind", "pattern"),
    [
        ("_a_denial", r"\b(not|no|any\w+|everything|never|avoid|without|opposite|stop|nothing|"
                      r"other)\b"),
        ("_counted_things", rf"\b({'|'.join(everyday._UNITS)})\b"),
        ("_a_smaller_number", r"minus|-\d|negative|\d[.,/]\d|point|half|\b(a|\w+) (quarter|third|"
                              r"tenth|fifth|percent)|%|over"),
        ("_a_larger_number", r"\d\d|\dth|hundred|thousand|ty\b|ty-|teen|ten\b|eleven|twelve|million"
                             r"|dozen|score|first|second|third|fo\w+th|fifth|sixth|\wth\b"),
    ],
)
def test_near_others_are_more_than_a_digit(kind, pattern):
    rng = random.Random(0)
    for _ in range(1000):
        text = getattr(everyday, kind)(rng)
        assert re.search(pattern, text, re.I), text


def test_others_are_of_every_kind():
    others = write_others(3000)
    assert len(others) == 3000 and all(text.strip() for text in others)
    assert len(set(others)) > 2000
    assert others == write_others(3000) != write_others(3000, seed=1)
    assert write_others(0) == []
    rng = random.Random(5)
    assert all(isinstance(write_other(rng), str) for _ in range(50))


def test_no_other_is_a_caption():
    """A sentence cannot ask for a digit and for none."""
    known = {normal_form(caption) for caption in all_captions(TRAINING_PHRASINGS)[0]}
    both = {text for text in write_others(20_000) if normal_form(text) in known}
    assert not both


# files


def test_load_prompts(tmp_path):
    (tmp_path / "some.txt").write_text(
        "# a note\n# with a\ttab\n\n## first\n3\tthree, please\n-\ta cat\n## second\n"
        "slant -1\ta {digit}\n"
    )
    prompt, *others = load_prompts("some", tmp_path)
    assert others == [("first", "-", "a cat"), ("second", "slant -1", "a {digit}")]
    assert (prompt.kind, prompt.answer, prompt.text) == ("first", "3", "three, please")


def test_unknown_prompts_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        load_prompts("typo")
    message = str(caught.value)
    assert message.startswith("There are no prompts 'typo': choose one of far, indirect, messy")
    assert message.endswith(".") and "\n" not in message
    with pytest.raises(FileNotFoundError, match=r"choose one of none\.$"):
        load_prompts("typos", tmp_path)


# captions of pictures


def test_caption_pictures():
    levels, digits = random_pictures(3000)
    captions, said = caption_pictures(levels, digits)
    assert len(captions) == 3000 and said.shape == (3000, 4) and said.dtype == torch.int64
    assert all(caption.strip() for caption in captions)
    told = said != UNSAID
    assert torch.equal(said[told], levels[told]), "a caption says what the picture has, or nothing"
    assert 0.25 < told.float().mean() < 0.45
    assert 0.2 < (~told).all(1).float().mean() < 0.5, "many captions say nothing of style"
    pairs = zip(digits.tolist(), said.tolist(), strict=True)
    assert not any(held_out(*pair) for pair in pairs)
    for caption, digit in zip(captions, digits.tolist(), strict=True):
        assert set(digits_in(caption)) <= {digit}, caption


def test_captions_of_held_out_cells_never_name_both():
    """Pictures of these cells alone."""
    cells = torch.tensor(HELD_OUT_CELLS).repeat(300, 1)
    levels = torch.cat([cells[:, 1:], torch.zeros(len(cells), 2, dtype=torch.long)], 1)
    _, said = caption_pictures(levels, cells[:, 0])
    both = (said[:, :2] != UNSAID).all(1)
    assert not both.any() and (said[:, :2] != UNSAID).any(0).all()


def test_same_seed_same_captions():
    levels, digits = random_pictures(200)
    first, again = (caption_pictures(levels, digits, seed=4) for _ in range(2))
    other = caption_pictures(levels, digits, seed=5)
    assert first[0] == again[0] != other[0] and torch.equal(first[1], again[1])


def test_what_is_said_is_in_the_words():
    levels, digits = random_pictures(4000, seed=2)
    captions, said = caption_pictures(levels, digits)
    words = (
        {-1: "thin|fine|light", 1: "thick|bold|heavy|fat"},
        {-1: "left|backward", 1: "right|forward|slanted"},
        {-1: "narrow|compressed", 1: "wide|broad"}, {-1: "small|little", 1: "big|large"},
    )
    for caption, row in zip(captions, said.tolist(), strict=True):
        for level, sides in zip(row, words, strict=True):
            if level not in (0, UNSAID):
                assert re.search(sides[1 if level > 0 else -1], caption, re.I), (caption, row)


def test_a_slip_in_the_digit_leaves_the_other_words_alone():
    """ "eight" stands in "medium-weight" too, and "one" in "someone"."""
    levels, _ = random_pictures(4000, seed=3)
    for digit in (8, 1):
        captions, _ = caption_pictures(levels, torch.full((4000,), digit))
        for caption in captions:
            words = set(re.findall(r"[a-z]+(?:-[a-z]+)?", caption.lower()))
            odd = r"(medium|regular)-w(?!eight|idth).*|some(?!one$|body$|times$).+"
            assert not [word for word in words if re.fullmatch(odd, word)], caption


def test_some_captions_are_misspelled_and_some_rough():
    levels, digits = random_pictures(4000, seed=1)
    captions, _ = caption_pictures(levels, digits)
    named = [bool(digits_in(caption)) for caption in captions]
    assert 0.03 < 1 - sum(named) / 4000 < 0.15, "misspelled"
    assert 0.05 < sum(caption != caption.strip().lower() and caption.isupper()
                      for caption in captions) / 4000 < 0.15, "shouted"


# what is tested is not trained on


def test_tested_prompts_in_their_normal_form():
    names = ("messy", "typos", "indirect", "far", "near", "negations")
    texts = [prompt.text for name in names for prompt in load_prompts(name)]
    shut = everyday.tested()
    assert shut == {normal_form(text) for text in texts} and shut is everyday.tested()
    assert len(shut) > 0.95 * len(texts), "prompts do not differ by their marks alone"
    assert all(normal_form(text) == text for text in shut)


@pytest.mark.parametrize("text", ["sevn", "a trio", "draw a cat"])
def test_another_case_or_mark_is_the_same_prompt(text):
    for other in (text.upper(), f"  {text}!! ", f'"{text}"', f"- {text} :)", f"{text} <3"):
        assert normal_form(other) == normal_form(text) == text


@pytest.mark.parametrize(
    ("text", "other"), [("3", "-3"), ("3.5", "35"), ("3/4", "34"), ("50%", "50"), ("7th", "7")]
)
def test_signs_of_numbers_matter(text, other):
    assert normal_form(text) != normal_form(other)


def test_a_caption_that_is_tested_is_written_anew(monkeypatch):
    """One caption of three is said to be a test prompt."""
    levels, digits = random_pictures(1500)
    captions, _ = caption_pictures(levels, digits)
    shut = frozenset(normal_form(caption) for caption in captions[::3])
    monkeypatch.setattr(everyday, "tested", lambda: shut)
    again, _ = caption_pictures(levels, digits)
    assert not shut & {normal_form(caption) for caption in again}
    assert again[0] != captions[0] and len(again) == len(captions)
    for caption, digit in zip(again, digits.tolist(), strict=True):
        assert set(digits_in(caption)) <= {digit}, caption


def test_redrawing_changes_the_words_and_not_the_styles(monkeypatch):
    levels, digits = random_pictures(1)
    (first,), said = caption_pictures(levels, digits, seed=3)
    monkeypatch.setattr(everyday, "tested", lambda: frozenset({normal_form(first)}))
    (other,), said_again = caption_pictures(levels, digits, seed=3)
    assert normal_form(other) != normal_form(first) and torch.equal(said, said_again)


def test_an_other_that_is_tested_is_written_anew(monkeypatch):
    sentences = write_others(400)
    shut = frozenset(normal_form(sentence) for sentence in sentences[::2])
    monkeypatch.setattr(everyday, "tested", lambda: shut)
    again = write_others(400)
    assert len(again) == 400 and not shut & {normal_form(sentence) for sentence in again}


def test_large_corpora_meet_no_tested_prompt():
    """Short captions such as "four." come near to them: the seeds of `write_corpus` and others."""
    for seed in (0, 1):
        captions, _ = caption_pictures(*random_pictures(5000, seed), seed=seed)
        sentences = captions + write_others(5000, seed)
        assert not everyday.tested() & {normal_form(sentence) for sentence in sentences}
