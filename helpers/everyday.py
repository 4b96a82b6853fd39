"""Captions as people type them: chat, slips of the finger, and wishes for no single digit.

Also the prompts in `data/prompts/` that nothing trains on (notebook 11).
"""

import functools
import random
import re
from typing import NamedTuple

import torch

from helpers.captions import WORDS, write_caption
from helpers.mnist import DATA
from helpers.styles import (
    FRAMES,
    LEVELS,
    PHRASINGS,
    STYLES,
    UNSAID,
    choose_said,
    with_article,
    write_styled,
)

PROMPTS = DATA / "prompts"

_GREETINGS = (
    "hi there", "hello", "hey", "good evening", "dear computer", "hey you", "excuse me", "hi",
    "morning", "well", "so", "okay", "right", "alright then", "listen", "by the way", "oh", "uh",
    "hmm", "let me think", "sorry to bother you", "quick question", "my friend", "if I may",
)
_THANKS = (
    "thanks", "thank you", "thank you so much", "many thanks", "cheers", "bye", "that is all",
    "if you can", "if it is not too much trouble", "when you have time", "as fast as you can",
    "ok?", "right?", "please", "would be great", "you know", "haha", "and nothing else",
    "that would make my day", "I am in a hurry", "take your time", "good luck", "xx",
)
_ASIDES = (
    "My sister is coming over later.", "It has been raining since the morning.",
    "We are having soup for dinner.", "I am new here.", "The train is late again.",
    "I have never used this before.", "My phone is almost empty.", "The cat is on my keyboard.",
    "This is for a school poster.", "My boss wants it on a slide.", "I like your pictures.",
    "The kids are asleep.", "Work was long today.", "I just had coffee.",
    "We are going on holiday soon.", "My printer is broken.", "It is for my daughter's room.",
    "The shop is closed.", "I hope you are well.", "Let us see how this goes.",
    "The neighbours are loud.", "I am writing from a bus.", "The garden needs water.",
    "I told my brother about you.", "Somebody must have lost their keys.", "What a day.",
    "I am decorating a cake.", "The lesson starts soon.", "Nobody answered my letter.",
)
_MARKS = ("!", "!!", "...", "?", "?!", " :)", " ;-)", " ...", "!!!", ".", ",", " -", " <3")
_LABELS = (
    "prompt: {}", "input: {}", "text = {}", "* {}", "- {}", '"{}"', "'{}'", "({})", "[{}]",
    "<p>{}</p>", "// {}", "Re: {}", "to do: {}", "caption - {}", "**{}**", "_{}_", "{} #drawing",
    "subject: {}", "order: {}", "> {}",
)
_FILLERS = (
    "uh", "like", "you know", "I mean", "kind of", "er", "well", "hm", "actually", "basically",
)

# One slip away from a number word, and words of their own (MiniLM's vocabulary knows them whole).
_REAL_WORDS = frozenset(
    "aero hero nero ne on une obe ode ole ore owe ono bone cone done gone lone none tone zone once "
    "ones wo to tow tao tho tko too tree thee there threw our fur for hour pour sour tour your "
    "foul flour fours dive give hive live fide fife file fine fire fivb ix si aix fix mix nix sax "
    "sex sox sic sid sim sin sip sir sis sit even sven seen steven severn sevens fight light might "
    "night right sight tight wight height weight eighth eighty eine line mine pine vine wine nice "
    "nike nile nina nino".split()
)

_THINGS = (
    *("cat dog horse sheep bird fish elephant whale mouse snake lion house tree car bicycle boat "
      "train aeroplane rocket castle bridge mountain river beach sunset forest flower rose cloud "
      "star moon face hand eye heart smile chair table lamp cup bottle spoon clock book pencil "
      "guitar piano drum hat shoe shirt umbrella apple banana cake pizza egg cheese bread robot "
      "dragon ghost king clown astronaut nurse baby family football map flag key ladder window "
      "door garden kitchen city street logo portrait landscape cartoon poster signature poem joke "
      "song letter recipe story word sentence name alphabet").split(),
)
_SIGNS = (
    *("triangle square circle spiral arrow cross rectangle line hexagon cube zigzag dot oval "
      "pyramid diamond comma semicolon ampersand bracket asterisk hashtag tick checkmark dash "
      "apostrophe tilde slash smiley emoticon hieroglyph rune").split(),
    "plus sign", "minus sign", "equals sign", "percent sign", "dollar sign", "euro sign",
    "question mark", "exclamation mark", "full stop", "stop sign", "road sign", "musical note",
    "treble clef", "infinity symbol", "Greek letter", "Chinese character", "wavy line",
    "dotted line", "Celtic knot", "peace symbol", "barcode", "check box",
)
_LETTERS = (
    "the letter {}", "letter {}", "a capital {}", "an uppercase {}", "a lowercase {}", "{}",
    "a cursive {}", "the vowel {}", "the consonant {}", "the initials {}{}", "the symbol {}",
    "the character {}", "the word {}{}", "an ornate {}",
)
_ABOUT = (
    "the weather is lovely", "how old are you", "where do you live", "tell me a story",
    "what is the meaning of life", "I am hungry", "call my mother", "turn off the lights",
    "translate this text", "who wrote this book", "I feel sad today", "my car broke down",
    "what is for dinner", "remind me to buy flour", "is it going to snow", "play the radio",
    "the meeting is cancelled", "nothing in particular", "anything you like", "surprise me",
    "do your worst", "I do not know what I want", "the film was boring", "close the door",
    "explain gravity", "why is the sky blue", "sing me a lullaby", "your answer was wrong",
    "she plays the violin", "dogs bark and cats purr", "we moved to another town", "test",
    "help", "stop", "yes", "no", "okay", "thanks", "who are you", "what can you do",
    "draw something", "write something nice", "a picture", "an image", "a drawing", "handwriting",
    "thick strokes", "something bold", "leaning to the left", "narrow and upright", "a number",
    "a digit", "some digit or other", "any number", "numbers", "digits", "see you tomorrow",
    "where did you put my keys", "are you a person", "I forgot my password", "good night",
    "how do I get to the station", "that was not what I meant", "do you like music",
    "can you hear me", "what are you doing", "the soup is cold", "I love this town",
    "he never calls back", "is anybody there", "let us go home", "my back hurts",
    "how does this work", "show me what you can do", "write my name", "sign here",
    "draw whatever you want", "please continue", "make it better", "the pen is empty",
)
_ABROAD = (
    "ein Hund schläft im Garten", "wo ist der Bahnhof", "ich habe Hunger", "zeichne ein Haus",
    "un chat noir", "je ne comprends pas", "dessine-moi un bateau", "bonjour tout le monde",
    "el perro come pan", "buenos días", "dibuja una casa", "la vita è bella", "un albero verde",
    "dove andiamo stasera", "o gato dorme", "bom dia", "een mooie tekening", "goedemorgen",
    "god morgon", "en röd bil", "dobry wieczór", "rysunek kota", "iyi akşamlar", "kedi çiz",
    "добрый вечер", "нарисуй дом", "こんにちは", "猫の絵", "你好", "画一只狗", "مرحبا", "γεια σου",
)
_MORE = (
    *("ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen twenty "
      "thirty forty fifty sixty seventy eighty ninety hundred thousand million dozen").split(),
    *"score first second third fourth fifth sixth seventh eighth ninth tenth".split(),
)
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_DENIALS = (
    "not {a}", "no {digits}", "anything except {a}", "everything but {digit}", "never {a}",
    "do not draw {a}", "avoid the number {digit}", "any digit other than {digit}", "without {a}",
    "the opposite of {a}", "I do not want {a}", "stop drawing {digits}", "nothing like {a}",
)
_UNITS = (
    "cats", "dogs", "apples", "books", "people", "cars", "stars", "trees", "cups", "birds",
    "euros", "miles", "minutes", "children", "balloons", "candles", "chairs", "letters", "steps",
)
_PARTS = ("half", "quarter", "third", "tenth", "fifth", "percent")
_PART = r"(?<!\w)-?\d+(?:[.,:/]\d+)*%?[^\W_]*|[^\W_]+"  # a number or a word
_ALPHABET = "abcdefghijklmnopqrstuvwxyz"


class Prompt(NamedTuple):
    """A line of a file in `data/prompts/`."""

    kind: str    # the section that it stands in
    answer: str  # a digit, "-" for none, or an attribute and its level
    text: str


def load_prompts(name, folder=PROMPTS):
    """Read a file of prompts that nothing trains on: a list of `Prompt`s.

    Args:
        name: "messy", "typos", "indirect", "far", "near", "negations", "styled" or "synonyms".
        folder: where the files lie.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it cannot be read as text in UTF-8.
    """
    path, restore = folder / f"{name}.txt", "restore it with 'git checkout -- data'"
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError as error:
        known = ", ".join(sorted(p.stem for p in folder.glob("*.txt")))
        other = f"{known}; if {path} was there, {restore}" if known else "none"
        raise FileNotFoundError(f"There are no prompts {name!r}: choose one of {other}.") from error
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise ValueError(f"{path} cannot be read ({reason}): {restore}.") from error
    prompts, kind = [], ""
    for line in lines:
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
def tested():
    """Collect the normal forms of all held-out prompts, so that no training meets one."""
    names = ("messy", "typos", "indirect", "far", "near", "negations")
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
    """List the misspelled number words to train on, for each digit.

    Left out: words of their own ("tow"), what is as near to another number word ("nne"), and the
    slips in `data/prompts/typos.txt`.
    """
    tested = {prompt.text for prompt in load_prompts("typos")}
    every = [one_slip(word) for word in WORDS]
    taken = {slip for slips in every for slip in slips if sum(slip in s for s in every) > 1}
    shut = tested | taken | _REAL_WORDS
    return [[slip for slip in slips if slip not in shut] for slips in every]


def roughen(caption, rng):
    """Say the same as people type it: greetings, asides, marks, fillers, repetition, case.

    Args:
        caption: a sentence.
        rng: a `random.Random`, used up further.

    Returns:
        The sentence with one to three changes that leave its meaning alone.
    """
    for _ in range(rng.choice((1, 1, 2, 3))):
        caption = rng.choice(_CHANGES)(caption, rng)
    return rng.choice((str, str, str.upper, str.title, lambda s: s.replace(" ", "  ")))(caption)


def _with_filler(caption, rng):
    words = caption.split(" ")
    words.insert(rng.randrange(len(words)), rng.choice(_FILLERS) + rng.choice(("", ",", "...")))
    return " ".join(words)


def _repeated(caption, rng):
    last = caption.split(" ")[-1].strip(".!?")
    return f"{caption} {rng.choice((last, f'{last} {last}', caption))}"


_CHANGES = (
    lambda s, rng: rng.choice(_GREETINGS) + rng.choice((", ", " ", "! ", "... ")) + s,
    lambda s, rng: s + rng.choice((", ", " ", ". ", " - ")) + rng.choice(_THANKS),
    lambda s, rng: f"{rng.choice(_ASIDES)} {s}",
    lambda s, rng: f"{s.rstrip('.!?')}. {rng.choice(_ASIDES)}",
    lambda s, rng: s + rng.choice(_MARKS),
    lambda s, rng: rng.choice(_LABELS).format(s),
    _with_filler,
    _repeated,
)


def write_other(rng):
    """Write a sentence that asks for no single digit, but perhaps for something like one.

    Things, letters, signs, conversation, other languages, larger and smaller numbers, choices,
    denials, counted things.

    Args:
        rng: a `random.Random`, used up further.
    """
    return rng.choice(_OTHERS)(rng)


def _some_levels(rng):
    return [rng.choice(LEVELS) if rng.random() < 0.45 else UNSAID for _ in STYLES]


def _a_thing(rng):
    looks = rng.choice(("", "", "black ", "red ", "old ", "bold ", "thin ", "small ", "big "))
    return write_styled(0, [UNSAID] * 4, rng, thing=looks + rng.choice(_THINGS + _SIGNS))


def _a_styled_thing(rng):
    letter = rng.choice(_ALPHABET)
    names = (f"letter {letter}", letter.upper(), f"letter {letter.upper()}", rng.choice(_SIGNS))
    return write_styled(0, _some_levels(rng), rng, thing=rng.choice((*names, rng.choice(_THINGS))))


def _a_letter(rng):
    letters = [rng.choice((letter, letter.upper())) for letter in rng.sample(_ALPHABET, 2)]
    name = rng.choice(_LETTERS).format(*letters)
    return rng.choice((name, rng.choice(FRAMES).format(a=name), f"the word {rng.choice(_THINGS)}"))


def _nonsense(rng):
    def mash():
        return "".join(rng.choice("asdfghjklqwertzuiopyxcvbnm") for _ in range(rng.randint(3, 10)))

    def babble():
        count = rng.randint(2, 4)
        pairs = [rng.choice("bdfgklmnprstvwz") + rng.choice("aeiou") for _ in range(count)]
        return "".join(pairs) + rng.choice(("", "", "n", "rk", "sh", "p"))

    kinds = mash, babble, lambda: rng.choice(_THINGS)
    words = [rng.choice(kinds)() for _ in range(rng.randint(1, 4))]
    marks = "!?" * len(words)
    return rng.choice((" ".join(words), f"draw {words[0]}", f"{words[0]} {words[0]}", marks))


def _a_larger_number(rng):
    low, other = rng.randrange(10), rng.choice(WORDS)
    number = rng.choice((
        str(rng.randint(10, 99)), str(rng.randint(100, 2100)), rng.choice(_MORE), rng.choice(_MORE),
        f"{rng.choice(_TENS)}-{other}", f"{other} hundred", f"{other} thousand", f"{low}th",
    ))
    article = rng.choice(("", "a ", "the number ", "the "))
    return rng.choice((number, rng.choice(FRAMES).format(a=f"{article}{number}")))


def _a_smaller_number(rng):
    digit, other = rng.sample(range(10), 2)
    a, b = WORDS[digit], WORDS[other]
    number = rng.choice((
        f"minus {a}", f"minus {digit}", f"-{digit}", f"negative {a}", f"{digit}.{other}",
        f"{digit},{other}", f"{a} point {b}", f"{a} and a half", f"{digit}/{other}",
        f"a {rng.choice(_PARTS)}", f"{a} {rng.choice(_PARTS)}s", f"{digit}%", f"{a} over {b}",
    ))
    name = rng.choice(("", "the number ")) + number
    return rng.choice((number, rng.choice(FRAMES).format(a=name)))


def _a_choice(rng):
    pair = rng.sample(range(10), 2)
    a, b = (str(d) if rng.random() < 0.5 else WORDS[d] for d in pair)
    if rng.random() < 0.5:
        a, b = with_article(a), with_article(b)
    word = rng.choice(("or", "and", "or maybe", "next to", "plus", "and then", "versus", "to"))
    both = rng.choice(("", "", "either ", "both ")) + f"{a} {word} {b}"
    return rng.choice((both, rng.choice(FRAMES).format(a=both)))


def _a_denial(rng):
    denied = write_caption(rng.choice(_DENIALS), rng.randrange(10), numeral=rng.random() < 0.5)
    return rng.choice(("{}", "{} please", "draw {}", "I want {}")).format(denied)


def _counted_things(rng):
    digit = rng.randrange(10)
    things = f"{digit if rng.random() < 0.5 else WORDS[digit]} {rng.choice(_UNITS)}"
    return rng.choice((f"draw {things}", things, f"a picture of {things}", f"I see {things}"))


_OTHERS = (
    _a_thing, _a_styled_thing, _a_letter, _nonsense, _a_larger_number, _a_larger_number,
    _a_smaller_number, _a_choice, _a_denial, _counted_things,
    lambda rng: rng.choice(_ABOUT), lambda rng: rng.choice(_ASIDES + _ABROAD),
)


def caption_pictures(levels, digits, seed=0):
    """Write one caption for each picture, which says as much of its style as people might.

    Args:
        levels: int64 tensor (n, 4), the level of each attribute of each picture, -2 to 2.
        digits: int64 tensor (n,).
        seed: for all choices.

    Returns:
        captions: a list of n sentences.
        said: int64 tensor (n, 4), the levels that they name, `UNSAID` elsewhere.
    """
    rng, slips = random.Random(seed), training_slips()
    captions, said = [], []
    for row, digit in zip(levels.tolist(), digits.tolist(), strict=True):
        names = choose_said(row, digit, rng)
        caption = _write_roughly(digit, names, slips, rng)
        while normal_form(caption) in tested():
            caption = _write_roughly(digit, names, slips, rng)
        captions.append(caption)
        said.append(names)
    return captions, torch.tensor(said)


def _write_roughly(digit, names, slips, rng):
    if set(names) == {UNSAID} and rng.random() < 0.7:
        caption = write_caption(rng.choice(PHRASINGS), digit, rng.random() < 0.4)
    else:
        caption = write_styled(digit, names, rng)
    if rng.random() < 0.15:
        caption = re.sub(rf"\b{WORDS[digit]}", rng.choice(slips[digit]), caption)
    return roughen(caption, rng) if rng.random() < 0.35 else caption


def write_others(n, seed=0):
    """Write n sentences that ask for no single digit, some of them roughened."""
    rng = random.Random(seed)
    sentences = []
    while len(sentences) < n:
        sentence = write_other(rng)
        sentence = roughen(sentence, rng) if rng.random() < 0.3 else sentence
        if normal_form(sentence) not in tested():
            sentences.append(sentence)
    return sentences
