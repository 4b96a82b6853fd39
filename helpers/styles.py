"""Captions that also say how: thickness, slant, width and size in words (notebook 11).

The plain phrasings stand in `helpers/captions.py`. An attribute has five levels, from very low
(-2) over medium (0) to very high (2), and a sixth number where nothing is said.
"""

import functools
import random

import torch

from helpers.captions import TRAINING_PHRASINGS, WORDS, all_captions

STYLES = ("thickness", "slant", "width", "size")
LEVELS = (-2, -1, 0, 1, 2)
UNSAID = 3
EDGES = (0.12, 0.36, 0.64, 0.88)  # ranks at which one level ends and the next begins
LEVEL_NAMES = {
    "thickness": ("very thin", "thin", "medium thickness", "thick", "very thick"),
    "slant": ("leaning far left", "leaning left", "upright", "leaning right", "leaning far right"),
    "width": ("very narrow", "narrow", "medium width", "wide", "very wide"),
    "size": ("very small", "small", "medium size", "big", "very big"),
}

# Digit, thickness and slant (-1 low, 1 high) that no training caption names together.
HELD_OUT_CELLS = (
    (0, -1, -1), (2, 1, 1), (3, -1, 1), (4, -1, -1), (5, 1, -1), (7, 1, -1), (8, -1, 1), (9, 1, 1),
)

_PLACES = (
    "{a} on a jersey", "{a} on a mailbox", "{a} on a ticket", "{a} sprayed on a wall",
    "{a} stitched on a cap", "{a} from a calendar", "{a} on the door of a locker", "room {digit}",
    "{a} engraved on a ring", "gate {digit}", "floor {digit}", "chapter {digit}", "level {digit}",
    "seat number {digit}", "platform {digit}", "question {digit}", "lane {digit}", "key {digit}",
    "a candle in the shape of {a}", "a stamp with {a} on it", "a tattoo of {a}", "a stencil of {a}",
    "a sign that says {digit}", "a label that reads {digit}", "a badge with {a}",
    "the final score {digit}", "the winner wears {a}", "the lift stopped at {digit}",
    "my lucky number, {digit}", "we live at number {digit}", "the temperature is {digit}",
    "the dial points to {digit}", "press {digit} on the keypad",
    "the teacher writes {a} on the board", "my son learns to write {a}",
    "the old man signed with {a}", "{a} in a letter from my aunt", "copy {a} into your notebook",
    "fill in {a} here", "stamp {a} on the parcel", "count up to {digit}", "it ends with {a}",
    "the code begins with {a}", "the last digit is {digit}", "which of these is {a}?",
    "spell {digit}", "practise {digits} in your exercise book", "{digit} in cursive",
    "{digit} in pencil", "{a} by a left-handed person", "{a} in the style of a child",
    "a quick {digit}", "a neat {digit}", "a messy {digit}", "a typical {digit}",
    "an elegant {digit}", "an ugly {digit}", "a lonely {digit}", "tonight I dream of {digits}",
    "the price is {digit}", "the time is {digit} o'clock", "the symbol {digit}",
    "the digit called {digit}", "the number that we call {digit}", "I scribbled {a} on my hand",
    "find me {a}", "bring me {a}", "let us have {a}", "it looks like {a}",
    "pictures of {digits}", "an icon of {a}", "design {a}",
    "compose {a}", "form {a}", "shape {a} out of clay", "ink {a}", "pen {a}",
)
PHRASINGS = TRAINING_PHRASINGS + _PLACES
FRAMES = tuple(phrasing for phrasing in PHRASINGS if "{a}" in phrasing)

_VERY = ("very", "extremely", "really", "super", "extra", "unusually")
_ADJECTIVES = {  # low, medium, high
    "thickness": (
        ("thin", "fine", "light"),
        ("medium-weight", "regular-weight"),
        ("thick", "bold", "heavy", "fat"),
    ),
    "slant": (
        ("left-leaning", "left-slanting", "backward-leaning"),
        ("upright", "straight", "vertical"),
        ("right-leaning", "right-slanting", "slanted", "forward-leaning"),
    ),
    "width": (("narrow", "compressed"), ("medium-width", "regular-width"), ("wide", "broad")),
    "size": (("small", "little"), ("medium-sized", "normal-sized"), ("big", "large")),
}
_TAILS = {
    "thickness": (
        "in {} strokes", "with {} lines", "with {a} pen", "drawn with {a} brush", "in {} ink",
        "made of {} lines", "with {a} stroke", "whose lines are all {}", "and use {a} brush",
        "by someone with {a} pencil", "in {} handwriting",
    ),
    "width": ("that is {}", "written {}", "which looks {}", "of {} build", "made {}"),
    "size": ("that is {}", "written {}", "which looks {}", "in {a} format", "made {}"),
}
_LEANING = (
    "leaning{} {}", "leaning{} to the {}", "that leans{} {}", "that leans{} to the {}",
    "slanted{} to the {}", "slanting{} to the {}", "leaning over{} to the {}",
    "bent{} to the {}", "inclined{} to the {}", "which falls{} to the {}", "pointing{} to the {}",
)
_WARDS = ("with a {}{}ward slant", "with a {}{}ward lean", "that has a {}{}ward slant")
_FAR = (" far", " strongly", " a lot", " heavily")
_UPRIGHT = (
    "standing upright", "standing straight", "that stands upright", "without any slant",
    "not leaning at all", "drawn straight up",
)
_NOUNS = ("{}", "{}", "{}", "{}", "number {}", "digit {}", "handwritten {}", "figure {}")
_ENDINGS = (
    ", {}", ". Make it {}", "; it should be {}", ": {}", ". I want it {}", ", please have it {}",
    ". It must be {}", " - {}",
)


def write_adjective(style, level, rng):
    """Write a level of one of `STYLES` as words that stand before the digit: "very bold"."""
    word = rng.choice(_ADJECTIVES[style][(level > 0) - (level < 0) + 1])
    return f"{rng.choice(_VERY)} {word}" if abs(level) == 2 else word


def write_tail(style, level, rng):
    """Write a level of one of `STYLES` as words that follow the digit: "in very bold strokes"."""
    if style != "slant":
        words = write_adjective(style, level, rng)
        return rng.choice(_TAILS[style]).format(words, a=with_article(words))
    if level == 0:
        return rng.choice(_UPRIGHT)
    side = "left" if level < 0 else "right"
    if rng.random() < 0.15:
        return rng.choice(_WARDS).format("strong " if abs(level) == 2 else "", side)
    return rng.choice(_LEANING).format(rng.choice(_FAR) if abs(level) == 2 else "", side)


def write_styled(digit, levels, rng, frames=FRAMES, thing=None):
    """Write a caption that names a digit and how it is drawn.

    Args:
        digit: 0 to 9.
        levels: for each of `STYLES` a level from -2 to 2, or `UNSAID`.
        rng: a `random.Random`, used up further.
        frames: phrasings with `{a}` in them.
        thing: what to name instead of the digit, as in "letter k".

    Returns:
        The caption as text: the attributes stand before the digit, after it, or by themselves.

    Raises:
        ValueError: there is not one level for each attribute, or a level is unknown.
    """
    if len(levels) != len(STYLES) or not set(levels) <= {*LEVELS, UNSAID}:
        raise ValueError(f"levels are {levels!r}: give four from -2 to 2, or {UNSAID} for unsaid.")
    said = [pair for pair in zip(STYLES, levels, strict=True) if pair[1] != UNSAID]
    rng.shuffle(said)
    name = thing or rng.choice(_NOUNS).format(digit if rng.random() < 0.4 else WORDS[digit])
    frame, kind = rng.choice(frames), rng.random()
    if said and kind < 0.15:
        return _style_last(frame, name, said, rng)
    if said and kind < 0.25:  # "bold, leaning left, seven"
        parts = [_either(*pair, rng) for pair in said]
        parts.insert(rng.choice((0, len(parts))), name)
        return ", ".join(parts)
    before = [pair for pair in said if rng.random() < 0.5]
    adjectives = [write_adjective(*pair, rng) for pair in before]
    joined = _join(adjectives, rng) if rng.random() < 0.5 else " ".join(adjectives)
    tails = [write_tail(*pair, rng) for pair in said if pair not in before]
    words = with_article(f"{joined} {name}".strip())
    return frame.format(a=f"{words} {_join(tails, rng)}".strip())


def _style_last(frame, name, said, rng):
    """Ask for the digit first: "draw a seven. Make it bold and leaning left"."""
    wish = _join([write_adjective(*pair, rng) for pair in said], rng)
    return frame.format(a=with_article(name)).rstrip(".?") + rng.choice(_ENDINGS).format(wish)


def _either(style, level, rng):
    return (write_adjective if rng.random() < 0.5 else write_tail)(style, level, rng)


def _join(parts, rng):
    if len(parts) < 2:
        return "".join(parts)
    return ", ".join(parts[:-1]) + rng.choice((" and ", ", ", " and also ")) + parts[-1]


def with_article(words):
    """Put "a" or "an" before a name of a digit or of its style."""
    vowel = words[0].lower() in "aeiou8" and not words.startswith(("one", "euro"))
    return f"{'an' if vowel else 'a'} {words}"


def rank_within_digit(measures, digits, reference, reference_digits):
    """Say which share of the reference pictures of the same digit measures less.

    Args:
        measures: float32 tensor (n, k), such as `strokes.measure_styles` gives.
        digits: int64 tensor (n,).
        reference, reference_digits: the same for real training pictures, (m, k) and (m,).

    Returns:
        float32 tensor (n, k) of ranks from 0 to 1; equal measures share the middle of their ranks.
    """
    ranks = torch.empty_like(measures)
    for digit in range(10):
        theirs = reference[reference_digits == digit].T.sort(dim=1).values.contiguous()
        ours = measures[digits == digit].T.contiguous()
        below = torch.searchsorted(theirs, ours) + torch.searchsorted(theirs, ours, right=True)
        ranks[digits == digit] = (below / 2 / theirs.shape[1]).T
    return ranks


def level_of(ranks):
    """Turn ranks from 0 to 1 into levels from -2 to 2, int64 of the same shape."""
    return torch.bucketize(ranks, torch.tensor(EDGES)) - 2


def choose_said(levels, digit, rng, talkative=0.75, share=0.45):
    """Choose which attributes a caption names, never both of a held-out cell.

    Args:
        levels: for each of `STYLES` the level of the picture, -2 to 2.
        digit: what the picture shows.
        rng: a `random.Random`, used up further.
        talkative: chance that the caption names any attribute.
        share: chance of each attribute then.

    Returns:
        The levels as a list, `UNSAID` where the caption is silent.
    """
    if rng.random() > talkative:
        return [UNSAID] * len(STYLES)
    said = [level if rng.random() < share else UNSAID for level in levels]
    if held_out(digit, said):
        said[rng.randrange(2)] = UNSAID
    return said


def held_out(digit, levels):
    """Say whether digit, thickness and slant are named together and are a held-out cell."""
    thickness, slant = ((level > 0) - (level < 0) for level in levels[:2])
    return UNSAID not in levels[:2] and (digit, thickness, slant) in HELD_OUT_CELLS


def styled_captions(n, seed=0):
    """Write n captions with attributes drawn at random, plainly: no picture stands behind them.

    Returns:
        captions: a list of n sentences.
        digits: int64 tensor (n,).
        said: int64 tensor (n, 4), the levels that they name, `UNSAID` elsewhere.
    """
    rng = random.Random(seed)
    digits = [rng.randrange(10) for _ in range(n)]
    said = [choose_said([rng.choice(LEVELS) for _ in STYLES], digit, rng) for digit in digits]
    captions = [write_styled(*pair, rng) for pair in zip(digits, said, strict=True)]
    return captions, torch.tensor(digits), torch.tensor(said)


@functools.cache
def known_captions():
    """List the training captions that a model names when it is asked for the nearest: 7,380."""
    return (*all_captions(TRAINING_PHRASINGS)[0], *styled_captions(2000)[0])
