"""Captions that say how: every word of style, held-out cells, levels and ranks."""

import random
import re

import pytest
import torch
from test_captions import NUMBER_WORDS, word_edits, words_of

from helpers.captions import HELD_OUT_PHRASINGS, TRAINING_PHRASINGS, WORDS, all_captions
from helpers.styles import (
    EDGES,
    FRAMES,
    HELD_OUT_CELLS,
    LEVEL_NAMES,
    LEVELS,
    PHRASINGS,
    STYLES,
    UNSAID,
    choose_said,
    held_out,
    known_captions,
    level_of,
    rank_within_digit,
    styled_captions,
    with_article,
    write_adjective,
    write_styled,
    write_tail,
)

NEW = PHRASINGS[len(TRAINING_PHRASINGS) :]
SILENT = [UNSAID] * 4
WITNESS = {  # words of one side only: low, medium, high
    "thickness": (
        r"thin|fine|light", r"(medium|regular)-weight", r"thick|bold|heavy|fat"),
    "slant": (
        r"left|backward", r"upright|straight|vertical|without any slant|not leaning at all",
        r"right|forward|slanted"),
    "width": (r"narrow|compressed", r"(medium|regular)-width", r"wide|broad"),
    "size": (r"small|little", r"(medium|normal)-sized", r"big|large"),
}
GRADED = r"very|extremely|really|super|extra|unusually|far|strong|strongly|a lot|heavily"


# Leaning right in words: "slanted" alone does too, "slanted to the left" does not.
RIGHT = r"right\w*(-\w+)?|forward-\w+|slanted(?!( far| strongly| a lot| heavily)? to the left)"


def holds(pattern, text):
    """Say whether whole words of a text match; "upright" is no "right"."""
    return re.search(rf"(?<![\w-])(?:{pattern})(?!\w)", text) is not None


def only(style, level):
    """Four levels of which one is said."""
    return [level if name == style else UNSAID for name in STYLES]


def texts(write, n=150):
    """Write one thing many times: a sorted list of all that comes out."""
    rng = random.Random(0)
    return sorted({write(rng) for _ in range(n)})


# the phrasings


def test_several_hundred_phrasings_and_none_twice():
    assert len(PHRASINGS) >= 300 and PHRASINGS[: len(TRAINING_PHRASINGS)] == TRAINING_PHRASINGS
    captions, _ = all_captions(PHRASINGS)
    assert len({caption.lower() for caption in captions}) == len(captions)
    assert len(FRAMES) >= 100 and set(FRAMES) <= set(PHRASINGS)


@pytest.mark.parametrize("phrasing", NEW)
def test_phrasing(phrasing):
    gaps = re.findall(r"\{\w+\}", phrasing)
    assert len(gaps) == 1 and gaps[0] in ("{digit}", "{a}", "{digits}"), "one gap, of a known kind"
    assert not re.search(r"\ban? \{a\}|\ban \{digit\}", phrasing)
    assert phrasing == phrasing.strip() and "  " not in phrasing


@pytest.mark.parametrize("phrasing", NEW)
def test_captions_name_their_digit(phrasing):
    captions, digits = all_captions([phrasing])
    for caption, digit in zip(captions, digits.tolist(), strict=True):
        named = NUMBER_WORDS.findall(caption)
        names = {WORDS[digit], WORDS[digit] + "s", WORDS[digit] + "es", f"{digit}", f"{digit}s"}
        assert len(named) == 1 and named[0] in names, f"{caption!r} does not name {digit}"
        assert not re.search(r"\ba (8|eight)\b|\ban ([0-79]|one|two|seven)\b", caption), caption


def test_the_phrasings_held_out_in_notebook_5_stay_held_out():
    known = [words_of(phrasing) for phrasing in PHRASINGS]
    for phrasing in HELD_OUT_PHRASINGS:
        words = words_of(phrasing)
        nearest = min(known, key=lambda other: word_edits(words, other))
        assert word_edits(words, nearest) >= 2, f"{phrasing!r} is close to {' '.join(nearest)!r}"


# the words


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("style", STYLES)
def test_every_word_of_a_level(style, level):
    """Each word says its own side, none says another, and only the outer levels are graded."""
    side = (level > 0) - (level < 0)
    low, medium, high = WITNESS[style]
    own = (low, medium, high)[side + 1]
    written = texts(lambda rng: write_adjective(style, level, rng))
    written += texts(lambda rng: write_tail(style, level, rng))
    assert len(written) >= 6
    for text in written:
        assert holds(rf"[\w-]*(?:{own})[\w-]*", text), text
        if style == "slant":
            left, right = "left" in text or "backward" in text, holds(RIGHT, text)
            assert (left, right) == (level < 0, level > 0), text
        else:
            for other in {low, medium, high} - {own}:
                assert not holds(other, text), text
        assert holds(GRADED, text) == (abs(level) == 2), text
    for other in set(STYLES) - {style}:
        assert not any(
            holds(pattern, text) for pattern in (WITNESS[other][0], WITNESS[other][2])
            for text in written if (style, other) != ("slant", "width")
        ), other


def test_left_and_right_are_never_confused():
    rng, frames = random.Random(0), ("draw {a}",)
    for _ in range(600):
        levels = [rng.choice((*LEVELS, UNSAID)) for _ in STYLES]
        caption = write_styled(4, levels, rng, frames)
        left, right = "left" in caption or "backward" in caption, holds(RIGHT, caption)
        if levels[1] == UNSAID or levels[1] == 0:
            assert not left and not right, caption
        else:
            assert (left, right) == (levels[1] < 0, levels[1] > 0), caption


def test_every_level_has_a_name():
    assert set(LEVEL_NAMES) == set(STYLES)
    for names in LEVEL_NAMES.values():
        assert len(set(names)) == len(LEVELS)


# sentences


def test_captions_with_styles_name_their_digit_in_grammar():
    """Under every frame, and with one attribute to four."""
    rng = random.Random(1)
    for place in range(4000):
        digit = rng.randrange(10)
        levels = [rng.choice((*LEVELS, UNSAID, UNSAID)) for _ in STYLES]
        caption = write_styled(digit, levels, rng, [FRAMES[place % len(FRAMES)]])
        named = NUMBER_WORDS.findall(caption)
        assert len(named) == 1 and named[0] in (WORDS[digit], str(digit)), caption
        assert caption == caption.strip() and "  " not in caption and "{" not in caption, caption
        assert " ," not in caption and ",," not in caption and " ." not in caption, caption
        # a or an by the letter; "one" begins like "won"
        wrong = r"\ba (?=[aeiou8])(?!one\b)|\ban (?=[^aeiou8\s]|one\b)"
        assert not re.search(wrong, caption, re.I), caption


@pytest.mark.parametrize(
    ("words", "whole"),
    [
        ("seven", "a seven"), ("eight", "an eight"), ("8", "an 8"), ("1", "a 1"), ("one", "a one"),
        ("upright 8", "an upright 8"), ("bold eight", "a bold eight"),
        ("unusually fat 3", "an unusually fat 3"), ("extra thin one", "an extra thin one"),
    ],
)
def test_with_article(words, whole):
    assert with_article(words) == whole


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("style", STYLES)
def test_what_is_asked_is_written_and_nothing_else(style, level):
    frames = ("draw {a}",)
    own = WITNESS[style][(level > 0) - (level < 0) + 1]
    for caption in texts(lambda rng: write_styled(4, only(style, level), rng, frames), 60):
        assert holds(rf"[\w-]*(?:{own})[\w-]*", caption), caption
        assert holds(GRADED, caption) == (abs(level) == 2), caption
    plain = "|".join(word for words in WITNESS.values() for word in words)
    for caption in texts(lambda rng: write_styled(4, SILENT, rng, frames), 60):
        assert not holds(plain, caption) and not holds(GRADED, caption), caption


def test_another_thing_than_a_digit():
    rng = random.Random(0)
    for _ in range(50):
        caption = write_styled(0, [1, -1, UNSAID, 0], rng, ("draw {a}",), thing="letter k")
        assert "letter k" in caption and not NUMBER_WORDS.search(caption)


@pytest.mark.parametrize(
    "levels", [[], [0], [0] * 5, [0, 0, 0, 4], [-3, 0, 0, 0], [None] * 4, [0.5, 0, 0, 0]]
)
def test_bad_levels_are_refused(levels):
    with pytest.raises(ValueError, match=r"^levels are .*: give four from -2 to 2, or 3 .*\.$"):
        write_styled(7, levels, random.Random(0))


def test_same_seed_same_captions():
    def write(seed):
        rng = random.Random(seed)
        return [write_styled(d, [1, -2, 0, UNSAID], rng) for d in range(10)]

    assert write(3) == write(3) != write(4)
    first, again, other = (styled_captions(60, seed) for seed in (0, 0, 1))
    assert first[0] == again[0] != other[0]
    assert torch.equal(first[1], again[1]) and torch.equal(first[2], again[2])


def test_styled_captions():
    captions, digits, said = styled_captions(400, seed=2)
    assert len(captions) == 400 and digits.shape == (400,) and said.shape == (400, 4)
    assert digits.dtype == said.dtype == torch.int64 and digits.unique().tolist() == [*range(10)]
    assert set(said.unique().tolist()) == {*LEVELS, UNSAID}
    for caption, digit in zip(captions, digits.tolist(), strict=True):
        named = NUMBER_WORDS.findall(caption)
        assert len(named) == 1 and named[0] in (WORDS[digit], str(digit)), caption


def test_known_captions():
    known = known_captions()
    assert len(known) == 7380 and known is known_captions()
    assert list(known[:5380]) == all_captions(TRAINING_PHRASINGS)[0]
    assert len(set(known)) > 0.96 * len(known)


# held-out cells


def test_the_held_out_cells():
    assert len(set(HELD_OUT_CELLS)) == len(HELD_OUT_CELLS) >= 5
    assert {digit for digit, _, _ in HELD_OUT_CELLS} <= {*range(10)}
    assert {side for _, *sides in HELD_OUT_CELLS for side in sides} == {-1, 1}


def test_held_out():
    for digit, thickness, slant in HELD_OUT_CELLS:
        for strength in (1, 2):
            levels = [thickness * strength, slant, 0, UNSAID]
            assert held_out(digit, levels)
            assert not held_out(digit, [-thickness, slant, 0, 0])
            assert not held_out(digit, [0, slant, 0, 0])
            assert not held_out(digit, [UNSAID, slant, 0, 0])
            assert not held_out(digit, [thickness, UNSAID, 0, 0])
    cells = [(d, t, s) for d in range(10) for t in (-2, -1, 0, 1, 2) for s in (-2, -1, 0, 1, 2)]
    assert sum(held_out(d, [t, s, 0, 0]) for d, t, s in cells) == 4 * len(HELD_OUT_CELLS)


def test_held_out_cells_are_never_both_named():
    rng = random.Random(0)
    for digit, thickness, slant in HELD_OUT_CELLS:
        named = [0, 0]
        for _ in range(500):
            said = choose_said([2 * thickness, slant, 1, -1], digit, rng, share=0.9)
            assert UNSAID in said[:2]
            named = [n + (level != UNSAID) for n, level in zip(named, said, strict=False)]
        assert min(named) > 100, "either is named alone"
    _, digits, said = styled_captions(20_000, seed=5)
    pairs = list(zip(digits.tolist(), said.tolist(), strict=True))
    assert not any(held_out(*pair) for pair in pairs)
    assert sum(UNSAID not in levels[:2] for _, levels in pairs) > 1000


def test_choose_said():
    rng, levels = random.Random(0), [-2, 1, 0, 2]
    assert choose_said(levels, 3, rng, talkative=0) == SILENT
    assert choose_said(levels, 3, rng, talkative=1, share=1) == levels or held_out(3, levels)
    drawn = [choose_said(levels, 1, rng) for _ in range(4000)]
    for column, level in zip(zip(*drawn, strict=True), levels, strict=True):
        assert set(column) == {level, UNSAID}
        assert 1 - column.count(UNSAID) / 4000 == pytest.approx(0.75 * 0.45, abs=0.03)


# ranks and levels


def test_level_of_at_the_edges():
    ranks = torch.tensor([0.0, 0.1199, 0.1201, 0.3599, 0.3601, 0.6399, 0.6401, 0.8799, 0.8801, 1.0])
    assert level_of(ranks).tolist() == [-2, -2, -1, -1, 0, 0, 1, 1, 2, 2]
    assert level_of(torch.tensor(EDGES)).tolist() == [-2, -1, 0, 1]  # the edge is the lower's
    assert level_of(torch.rand(5, 4)).shape == (5, 4)
    assert level_of(ranks).dtype == torch.int64


def test_rank_within_digit_known_answers():
    reference = torch.tensor([[1.0], [2.0], [3.0], [4.0], [10.0], [10.0], [20.0], [30.0]])
    digits = torch.tensor([0, 0, 0, 0, 7, 7, 7, 7])
    ours = torch.tensor([[0.0], [2.5], [2.0], [9.0], [10.0], [20.0], [15.0]])
    theirs = torch.tensor([0, 0, 0, 0, 7, 7, 7])
    ranks = rank_within_digit(ours, theirs, reference, digits)
    assert ranks[:, 0].tolist() == [0, 0.5, 0.375, 1, 0.25, 0.625, 0.5]  # ties share their middle


def test_rank_within_digit_keeps_columns_and_digits_apart():
    generator = torch.Generator().manual_seed(0)
    measures = torch.randn(3000, 4, generator=generator)
    digits = torch.randint(10, (3000,), generator=generator)
    ranks = rank_within_digit(measures, digits, measures, digits)
    assert ranks.shape == (3000, 4) and 0 < ranks.min() and ranks.max() < 1
    for digit in range(10):  # uniform on itself, whatever the scale of a digit
        for column in ranks[digits == digit].T:
            even = (torch.arange(len(column)) + 0.5) / len(column)
            assert torch.allclose(column.sort().values, even, atol=1e-5)
    shifted = measures + 100 * digits[:, None]
    assert torch.allclose(rank_within_digit(shifted, digits, shifted, digits), ranks, atol=0.01)


def test_levels_of_real_ranks_are_as_frequent_as_the_edges_say():
    measures = torch.randn(5000, 4, generator=torch.Generator().manual_seed(1))
    digits = torch.arange(5000) % 10
    levels = level_of(rank_within_digit(measures, digits, measures, digits))
    for level, share in zip(LEVELS, (0.12, 0.24, 0.28, 0.24, 0.12), strict=True):
        assert (levels == level).float().mean().item() == pytest.approx(share, abs=0.01)
