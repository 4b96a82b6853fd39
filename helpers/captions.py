"""Captions: asking for a digit (06_mnist_and_captions), saying how (12_say_how_to_draw_it), typing.

A phrasing is a sentence with a gap: `{digit}` for "eight" or "8", `{a}` with its article and
`{digits}` for the plural. The word lists stand in `data/phrases.toml`.
"""

import functools
import random
import re
import tomllib
from collections import namedtuple
from types import SimpleNamespace

import torch

from helpers import restore
from helpers.mnist import DATA
from helpers.shapes import whole


def _read_text(name, parse=str):
    try:
        return parse((DATA / name).read_text(encoding="utf-8"))
    except (OSError, ValueError, KeyError) as error:  # the latter: no UTF-8, no TOML, no such list
        reason = getattr(error, "strerror", None) or error
        raise ValueError(f"{DATA / name} cannot be read ({reason}): {restore('data')}.") from error


def _lists(text):
    lists = tomllib.loads(text)
    return [SimpleNamespace(**lists[kind]) for kind in ("plain", "styles", "typing", "others")]


_PLAIN, _STYLE, TYPING, OTHER = _read_text("phrases.toml", _lists)

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
STYLES = ("thickness", "slant", "width", "size")
LEVELS = (-2, -1, 0, 1, 2)
UNSAID = 3  # the level of an attribute that a caption does not name
LEVEL_NAMES = _STYLE.level_names
STYLE_WORDS = {word for kind in _STYLE.adjectives.values() for words in kind for word in words}

# Digit, thickness and slant (-1 low, 1 high) that no training caption names together.
HELD_OUT_CELLS = (
    (0, -1, -1), (2, 1, 1), (3, -1, 1), (4, -1, -1), (5, 1, -1), (7, 1, -1), (8, -1, 1), (9, 1, 1),
)


_combined = [f"{command} {thing}" for command in _PLAIN.commands for thing in _PLAIN.things]
_combined += [f"{command} {{digit}}" for command in _PLAIN.commands]
_combined += [f"{request} {thing}?" for request in _PLAIN.requests for thing in _PLAIN.things]
_combined += [f"{wish} {thing}" for wish in _PLAIN.wishes for thing in _PLAIN.things]
_combined += [f"{medium} {thing}" for medium in _PLAIN.media for thing in _PLAIN.things]
_combined += [f"please {command} {{a}}" for command in _PLAIN.commands]
_combined += [f"{command} the number {{digit}}, please" for command in _PLAIN.commands]
TRAINING_PHRASINGS = tuple(dict.fromkeys(_combined + _PLAIN.fragments + _PLAIN.sentences))
HELD_OUT_PHRASINGS = tuple(_PLAIN.held_out)  # never used in any training
PHRASINGS = TRAINING_PHRASINGS + tuple(_STYLE.places)
FRAMES = tuple(phrasing for phrasing in PHRASINGS if "{a}" in phrasing)


def write_caption(phrasing, digit, numeral=False):
    """Fill the gap of one phrasing with a digit, 0 to 9: "eight", or "8" as a numeral."""
    if not 0 <= (digit := whole(digit, "digit")) <= 9:
        raise ValueError(f"digit is {digit!r}: give a whole number from 0 to 9.")
    name = str(digit) if numeral else WORDS[digit]
    plural = name + ("es" if name == "six" else "s")
    article = "an" if digit == 8 else "a"
    return phrasing.format(digit=name, a=f"{article} {name}", digits=plural)


def all_captions(phrasings):
    """Write the 20 captions of every phrasing, which stand together; and their digits, int64."""
    kinds = [(digit, numeral) for digit in range(10) for numeral in (False, True)]
    captions = [write_caption(p, digit, numeral) for p in phrasings for digit, numeral in kinds]
    return captions, torch.tensor([digit for digit, _ in kinds]).repeat(len(phrasings))


def write_adjective(style, level, rng):
    """Write a level of one of `STYLES` as words that stand before the digit: "very bold"."""
    word = rng.choice(_STYLE.adjectives[style][(level > 0) - (level < 0) + 1])
    return f"{rng.choice(_STYLE.very)} {word}" if abs(level) == 2 else word


def write_tail(style, level, rng):
    """Write a level of one of `STYLES` as words that follow the digit: "in very bold strokes"."""
    if style != "slant":
        words = write_adjective(style, level, rng)
        return rng.choice(_STYLE.tails[style]).format(words, a=with_article(words))
    if level == 0:
        return rng.choice(_STYLE.upright)
    side = "left" if level < 0 else "right"
    if rng.random() < 0.15:
        return rng.choice(_STYLE.leaning_wards).format("strong " if abs(level) == 2 else "", side)
    leaning = rng.choice(_STYLE.leaning)
    return leaning.format(rng.choice(_STYLE.far) if abs(level) == 2 else "", side)


def write_styled(digit, levels, rng, frames=FRAMES, thing=None):
    """Write a caption that names a digit and how it is drawn: before it, after it, or by itself.

    `levels` holds for each of `STYLES` a level from -2 to 2 or `UNSAID`; `frames` are phrasings
    with `{a}`; `thing` is what to name instead of the digit, as in "letter k".
    """
    if len(levels) != len(STYLES) or not set(levels) <= {*LEVELS, UNSAID}:
        raise ValueError(f"levels are {levels!r}: give four from -2 to 2, or {UNSAID} for unsaid.")
    named = [pair for pair in zip(STYLES, levels, strict=True) if pair[1] != UNSAID]
    rng.shuffle(named)
    name = thing or rng.choice(_STYLE.nouns).format(digit if rng.random() < 0.4 else WORDS[digit])
    frame, kind = rng.choice(frames), rng.random()
    if named and kind < 0.15:
        wish = _join([write_adjective(*pair, rng) for pair in named], rng)
        ending = rng.choice(_STYLE.endings).format(wish)
        return frame.format(a=with_article(name)).rstrip(".?") + ending
    if named and kind < 0.25:  # "bold, leaning left, seven"
        ways = write_tail, write_adjective
        parts = [ways[rng.random() < 0.5](*pair, rng) for pair in named]
        parts.insert(rng.choice((0, len(parts))), name)
        return ", ".join(parts)
    before = [pair for pair in named if rng.random() < 0.5]
    adjectives = [write_adjective(*pair, rng) for pair in before]
    joined = _join(adjectives, rng) if rng.random() < 0.5 else " ".join(adjectives)
    tails = [write_tail(*pair, rng) for pair in named if pair not in before]
    words = with_article(f"{joined} {name}".strip())
    return frame.format(a=f"{words} {_join(tails, rng)}".strip())


def _join(parts, rng):
    if len(parts) < 2:
        return "".join(parts)
    return ", ".join(parts[:-1]) + rng.choice((" and ", ", ", " and also ")) + parts[-1]


def with_article(words):
    """Put "a" or "an" before a name of a digit or of its style."""
    vowel = words[0].lower() in "aeiou8" and not words.startswith(("one", "euro"))
    return f"{'an' if vowel else 'a'} {words}"


def choose_named(levels, digit, rng, talkative=0.75, share=0.45):
    """Choose which levels of a picture a caption names, never those of a held-out cell."""
    if rng.random() > talkative:
        return [UNSAID] * len(STYLES)
    named = [level if rng.random() < share else UNSAID for level in levels]
    if held_out(digit, named):
        named[rng.randrange(2)] = UNSAID
    return named


def held_out(digit, levels):
    """Say whether digit, thickness and slant are named together and are a held-out cell."""
    thickness, slant = ((level > 0) - (level < 0) for level in levels[:2])
    return UNSAID not in levels[:2] and (digit, thickness, slant) in HELD_OUT_CELLS


def styled_captions(n, seed=0):
    """Write n captions with random attributes: these, digits (n,), levels that they name (n, 4)."""
    rng = random.Random(seed)
    digits = [rng.randrange(10) for _ in range(n)]
    named = [choose_named([rng.choice(LEVELS) for _ in STYLES], digit, rng) for digit in digits]
    captions = [write_styled(*pair, rng) for pair in zip(digits, named, strict=True)]
    return captions, torch.tensor(digits), torch.tensor(named)


@functools.cache
def known_captions():
    """List the training captions that a model names when it is asked for the nearest: 7,380."""
    return (*all_captions(TRAINING_PHRASINGS)[0], *styled_captions(2000)[0])


_PART = r"(?<!\w)-?\d+(?:[.,:/]\d+)*%?[^\W_]*|[^\W_]+"  # a number or a word
_ALPHABET = "abcdefghijklmnopqrstuvwxyz"


# A line of a file in `data/prompts/`: its section; a digit, "-", or an attribute and its level.
Prompt = namedtuple("Prompt", ("kind", "answer", "text"))


def load_prompts(name):
    """Read `data/prompts/NAME.txt`: a list of `Prompt`s; FileNotFoundError for another name."""
    known = sorted(path.stem for path in (DATA / "prompts").glob("*.txt"))
    if name not in known:
        choices = f"choose one of {', '.join(known)}" if known else restore("data")
        raise FileNotFoundError(f"There are no prompts {name!r}: {choices}.")
    prompts, kind = [], ""
    for line in _read_text(f"prompts/{name}.txt").splitlines():
        answer, tab, text = line.partition("\t")
        if line.startswith("## "):
            kind = line.removeprefix("## ")
        elif tab and not line.startswith("#"):
            prompts.append(Prompt(kind, answer, text))
    return prompts


def normal_form(text):
    """Take case, spaces and punctuation away; what is nothing else stays as it is."""
    parts = re.findall(_PART, text.lower().replace("<3", ""))
    return " ".join(parts) or " ".join(text.split())


@functools.cache
def held_out_forms():
    """Collect the normal forms of all held-out prompts, so that no training meets one."""
    names = "messy typos indirect far near negations languages compounds validation".split()
    return frozenset(normal_form(p.text) for name in names for p in load_prompts(name))


def one_slip(word):
    """List all strings one slip away: a letter left out, swapped, replaced or added."""
    parts = [(word[:i], word[i:]) for i in range(len(word) + 1)]
    slips = [a + b[1:] for a, b in parts if b]
    slips += [a + b[1] + b[0] + b[2:] for a, b in parts if len(b) > 1]
    slips += [a + letter + b[1:] for a, b in parts if b for letter in _ALPHABET]
    slips += [a + letter + b for a, b in parts for letter in _ALPHABET]
    return [slip for slip in dict.fromkeys(slips) if slip != word and len(slip) > 1]


def training_slips():
    """List misspelt number words for each digit, but for real words and those of the test."""
    held_out_slips = {prompt.text for prompt in load_prompts("typos")}
    every = [one_slip(word) for word in WORDS]
    taken = {slip for slips in every for slip in slips if sum(slip in s for s in every) > 1}
    shut = held_out_slips | taken | set(TYPING.real_words)
    return [[slip for slip in slips if slip not in shut] for slips in every]


def roughen(caption, rng):
    """Say the same as people type it: greetings, asides, marks, fillers, repetition, case."""
    for _ in range(rng.choice((1, 1, 2, 3))):
        caption = rng.choice(_CHANGES)(caption, rng)
    return rng.choice((str, str, str.upper, str.title, lambda s: s.replace(" ", "  ")))(caption)


def _with_filler(caption, rng):
    words = caption.split(" ")
    place = rng.randrange(len(words))
    words.insert(place, rng.choice(TYPING.fillers) + rng.choice(("", ",", "...")))
    return " ".join(words)


def _repeated(caption, rng):
    last = caption.split(" ")[-1].strip(".!?")
    return f"{caption} {rng.choice((last, f'{last} {last}', caption))}"


_CHANGES = (
    lambda s, rng: rng.choice(TYPING.greetings) + rng.choice((", ", " ", "! ", "... ")) + s,
    lambda s, rng: s + rng.choice((", ", " ", ". ", " - ")) + rng.choice(TYPING.thanks),
    lambda s, rng: f"{rng.choice(TYPING.asides)} {s}",
    lambda s, rng: f"{s.rstrip('.!?')}. {rng.choice(TYPING.asides)}",
    lambda s, rng: s + rng.choice(TYPING.marks),
    lambda s, rng: rng.choice(TYPING.labels).format(s),
    _with_filler,
    _repeated,
)


def caption_pictures(levels, digits, seed=0):
    """Caption pictures by their levels (n, 4) and digits (n,): captions, the levels they name."""
    rng, slips = random.Random(seed), training_slips()
    captions, named = [], []
    for row, digit in zip(levels.tolist(), digits.tolist(), strict=True):
        names = choose_named(row, digit, rng)
        caption = _write_roughly(digit, names, slips, rng)
        while normal_form(caption) in held_out_forms():
            caption = _write_roughly(digit, names, slips, rng)
        captions.append(caption)
        named.append(names)
    return captions, torch.tensor(named)


def _write_roughly(digit, names, slips, rng):
    if set(names) == {UNSAID} and rng.random() < 0.7:
        caption = write_caption(rng.choice(PHRASINGS), digit, rng.random() < 0.4)
    else:
        caption = write_styled(digit, names, rng)
    if rng.random() < 0.15:
        caption = re.sub(rf"\b{WORDS[digit]}", rng.choice(slips[digit]), caption)
    return roughen(caption, rng) if rng.random() < 0.35 else caption
