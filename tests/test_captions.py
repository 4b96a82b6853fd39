"""The caption grammar: grammar of the sentences, and a held-out set worth the name."""

import re

import pytest

from helpers.captions import (
    HELD_OUT_PHRASINGS,
    TRAINING_PHRASINGS,
    WORDS,
    all_captions,
    write_caption,
)

EVERY = TRAINING_PHRASINGS + HELD_OUT_PHRASINGS
NUMBER_WORDS = re.compile(rf"\b(?:{'|'.join(WORDS)}|\d)(?:s|es)?\b")


def words_of(phrasing):
    return re.findall(r"\{\w+\}|[a-z']+", phrasing.lower())


def word_edits(a, b):
    """Count the words to exchange, drop or add on the way from list a to list b."""
    row = list(range(len(b) + 1))
    for i, word in enumerate(a, 1):
        above, row = row, [i]
        for j, other in enumerate(b, 1):
            row.append(min(above[j] + 1, row[-1] + 1, above[j - 1] + (word != other)))
    return row[-1]


@pytest.mark.parametrize(
    ("phrasing", "digit", "numeral", "caption"),
    [
        ("draw {a}", 7, False, "draw a seven"),
        ("draw {a}", 8, False, "draw an eight"),
        ("draw {a}", 8, True, "draw an 8"),
        ("draw {a}", 1, False, "draw a one"),
        ("number {digit}", 0, True, "number 0"),
        ("some {digits}", 6, False, "some sixes"),
        ("some {digits}", 6, True, "some 6s"),
        ("some {digits}", 0, False, "some zeros"),
    ],
)
def test_write_caption(phrasing, digit, numeral, caption):
    assert write_caption(phrasing, digit, numeral) == caption


@pytest.mark.parametrize("digit", [-1, 10, 3.0, "3", None, True])
def test_write_caption_refuses_what_is_no_digit(digit):
    with pytest.raises(ValueError, match="whole number from 0 to 9"):
        write_caption("draw {a}", digit)


def test_all_captions_order():
    captions, digits = all_captions(["draw {a}", "number {digit}"])
    assert len(captions) == 40 and digits.shape == (40,)
    for place, (caption, digit) in enumerate(zip(captions, digits.tolist(), strict=True)):
        phrasing, digit_of_place, numeral = place // 20, place % 20 // 2, place % 2
        assert digit == digit_of_place
        assert caption == write_caption(("draw {a}", "number {digit}")[phrasing], digit, numeral)


def test_all_captions_of_nothing():
    captions, digits = all_captions([])
    assert captions == [] and digits.shape == (0,)


def test_enough_phrasings_and_no_caption_twice():
    assert len(TRAINING_PHRASINGS) >= 200
    assert len(HELD_OUT_PHRASINGS) >= 40
    captions, _ = all_captions(EVERY)
    assert len({caption.lower() for caption in captions}) == len(captions)


@pytest.mark.parametrize("phrasing", EVERY)
def test_phrasing(phrasing):
    gaps = re.findall(r"\{\w+\}", phrasing)
    assert len(gaps) == 1 and gaps[0] in ("{digit}", "{a}", "{digits}"), "one gap, of a known kind"
    assert not re.search(r"\ban? \{", phrasing), "an article before the gap: write {a}"
    assert phrasing == phrasing.strip() and "  " not in phrasing


@pytest.mark.parametrize("phrasing", EVERY)
def test_captions_name_their_digit(phrasing):
    """Only "one more" and "one of those" may bring a second number word into a caption."""
    captions, digits = all_captions([phrasing])
    for caption, digit in zip(captions, digits.tolist(), strict=True):
        named = NUMBER_WORDS.findall(re.sub(r"\bone (more|of)\b", "", caption))
        names = {WORDS[digit], WORDS[digit] + "s", WORDS[digit] + "es", f"{digit}", f"{digit}s"}
        assert len(named) == 1 and named[0] in names, f"{caption!r} does not name {digit}"
        assert not re.search(r"\ba (8|eight)\b|\ban ([0-79]|one|two|seven)\b", caption), caption


def test_held_out_phrasings_differ_in_more_than_one_word():
    known = [words_of(phrasing) for phrasing in TRAINING_PHRASINGS]
    for phrasing in HELD_OUT_PHRASINGS:
        words = words_of(phrasing)
        nearest = min(known, key=lambda other: word_edits(words, other))
        assert word_edits(words, nearest) >= 2, f"{phrasing!r} is close to {' '.join(nearest)!r}"


def test_held_out_phrasings_bring_new_words():
    known = {word for phrasing in TRAINING_PHRASINGS for word in words_of(phrasing)}
    with_new_words = [p for p in HELD_OUT_PHRASINGS if set(words_of(p)) - known]
    assert len(with_new_words) == len(HELD_OUT_PHRASINGS)
