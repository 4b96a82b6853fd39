"""`familiarity`, behind `understands`: is one digit asked for (12_say_how_to_draw_it)?

About ten minutes on two cores, most of them for encoding 150,000 sentences.
"""

import random
from string import ascii_lowercase

import torch
import torch.nn.functional as F
from mnist_style import write_corpus
from running import run
from sklearn.metrics import roc_auc_score

from helpers.captions import (
    FRAMES,
    HELD_OUT_PHRASINGS,
    LEVELS,
    OTHER,
    PHRASINGS,
    STYLES,
    TYPING,
    UNSAID,
    WORDS,
    all_captions,
    held_out_forms,
    load_prompts,
    normal_form,
    one_slip,
    roughen,
    training_slips,
    with_article,
    write_adjective,
    write_styled,
    write_tail,
)
from helpers.generator import FAMILIARITY
from helpers.metrics import share_by
from helpers.mnist import load_splits
from helpers.models import SentenceLayers
from helpers.text import sentence_encoder
from helpers.training import fit

# What may be meant for a digit's name: it and all strings one slip away.
_NAMES = {name for word in WORDS for name in (word, *one_slip(word))}


def _misspelt(word, rng, slips=1):
    for _ in range(slips):
        word = rng.choice(one_slip(word))
    return rng.choice(OTHER.things) if word in _NAMES else word


def _phrase(word, rng):
    return rng.choice(PHRASINGS).format(digit=word, a=with_article(word), digits=f"{word}s")


def _fill(template, digit, rng):
    """Name a digit in a template, and another digit and a style where it asks for them."""
    other, style = rng.choice([d for d in range(10) if d != digit]), rng.choice(STYLES)
    a, b = map(str, (digit, other)) if rng.random() < 0.4 else (WORDS[digit], WORDS[other])
    how, tail = (write(style, rng.choice((-2, -1, 1, 2)), rng)
                 for write in (write_adjective, write_tail))
    return template.format(digit=a, a=with_article(a), digits=a + ("es" if a == "six" else "s"),
                           other=b, b=with_article(b), how=how, tail=tail)


def _strange_word(rng):
    """Write a word of another language, or what has two slips and more from a digit's name."""
    kind = rng.random()
    foreign = OTHER.things_abroad if kind < 0.1 else OTHER.numbers_abroad
    word = _misspelt(rng.choice(foreign), rng, int(kind < 0.3))
    if kind > 0.8:
        word = _misspelt(rng.choice(WORDS), rng, rng.choice((2, 2, 3)))
    return rng.choice((word, _phrase(word, rng), rng.choice(OTHER.frames_abroad).format(word)))


def _a_compound(rng):
    other = OTHER.neighbours, OTHER.corrections, OTHER.denied_styles, OTHER.denials
    sentence = _fill(rng.choice(rng.choice((OTHER.fractions, *other))), rng.randrange(10), rng)
    framed = rng.choice(FRAMES).format(a=sentence)
    return rng.choice((sentence, sentence, f"{sentence} please", framed))


def _a_thing(rng):
    looks = rng.choice(("", "", "black ", "red ", "old ", "bold ", "thin ", "small ", "big "))
    thing = looks + rng.choice(OTHER.things + OTHER.signs)
    return write_styled(0, [UNSAID] * 4, rng, thing=thing)


def _a_styled_thing(rng):
    letter, sign = rng.choice(ascii_lowercase), rng.choice(OTHER.signs)
    names = (f"letter {letter}", letter.upper(), f"letter {letter.upper()}", sign)
    levels = [rng.choice(LEVELS) if rng.random() < 0.45 else UNSAID for _ in STYLES]
    return write_styled(0, levels, rng, thing=rng.choice((*names, rng.choice(OTHER.things))))


def _a_letter(rng):
    letters = [rng.choice((letter, letter.upper())) for letter in rng.sample(ascii_lowercase, 2)]
    name = rng.choice(OTHER.letters).format(*letters)
    frame, word = rng.choice(FRAMES), rng.choice(OTHER.things)
    return rng.choice((name, frame.format(a=name), f"the word {word}"))


def _nonsense(rng):
    def mash():
        return "".join(rng.choice("asdfghjklqwertzuiopyxcvbnm") for _ in range(rng.randint(3, 10)))

    def babble():
        count = rng.randint(2, 4)
        pairs = [rng.choice("bdfgklmnprstvwz") + rng.choice("aeiou") for _ in range(count)]
        return "".join(pairs) + rng.choice(("", "", "n", "rk", "sh", "p"))

    kinds = mash, babble, lambda: rng.choice(OTHER.things)
    words = [rng.choice(kinds)() for _ in range(rng.randint(1, 4))]
    word, marks = words[0], "!?" * len(words)
    return rng.choice((" ".join(words), f"draw {word}", f"{word} {word}", marks))


def _a_larger_number(rng):
    low, other = rng.randrange(10), rng.choice(WORDS)
    number = rng.choice((
        str(rng.randint(10, 99)), str(rng.randint(100, 2100)),
        rng.choice(OTHER.larger_numbers), rng.choice(OTHER.larger_numbers),
        f"{rng.choice(OTHER.tens)}{rng.choice(('-', '-', ' ', ''))}{other}", f"{other} hundred",
        f"{other}{rng.choice((' thousand', 'hundred', 'teen', 'ty'))}", f"{low}th",
    ))
    if number[0].isalpha() and rng.random() < 0.4:
        number = _misspelt(number, rng)
    article = rng.choice(("", "a ", "the number ", "the "))
    return rng.choice((number, rng.choice(FRAMES).format(a=f"{article}{number}")))


def _a_choice(rng):
    pair = rng.sample(range(10), 2)
    a, b = (str(d) if rng.random() < 0.5 else WORDS[d] for d in pair)
    if rng.random() < 0.5:
        a, b = with_article(a), with_article(b)
    word = rng.choice(("or", "and", "or maybe", "next to", "plus", "and then", "versus", "to"))
    both = rng.choice(("", "", "either ", "both ")) + f"{a} {word} {b}"
    return rng.choice((both, rng.choice(FRAMES).format(a=both)))


def _counted_things(rng):
    digit = rng.randrange(10)
    things = f"{digit if rng.random() < 0.5 else WORDS[digit]} {rng.choice(OTHER.units)}"
    return rng.choice((f"draw {things}", things, f"a picture of {things}", f"I see {things}"))


_WRITERS = (
    *[_a_thing, _a_styled_thing, _a_letter, _nonsense, _a_choice, _counted_things] * 3,
    *[_a_larger_number] * 8, *[_strange_word] * 14, *[_a_compound] * 12,
    lambda rng: rng.choice(OTHER.about), lambda rng: rng.choice(TYPING.asides + OTHER.abroad),
)


def write_others(n, seed=0):
    """Write n sentences that ask for no single digit, some of them roughened."""
    rng = random.Random(seed)
    sentences = []
    while len(sentences) < n:
        sentence = rng.choice(_WRITERS)(rng)
        sentence = roughen(sentence, rng) if rng.random() < 0.3 else sentence
        if normal_form(sentence) not in held_out_forms():
            sentences.append(sentence)
    return sentences


def write_wishes(n, seed=0):
    """Write n wishes for one digit that look like others, or are misspelt: these, digits (n,)."""
    rng, slips, wishes = random.Random(seed), training_slips(), []
    while len(wishes) < n:
        digit, kind = rng.randrange(10), rng.random()
        slip = rng.choice(slips[digit])
        wish = (slip if kind < 0.1 else _phrase(slip, rng) if kind < 0.25
                else _fill(rng.choice(OTHER.in_spite), digit, rng))
        wish = roughen(wish, rng) if rng.random() < 0.4 else wish
        if normal_form(wish) not in held_out_forms():
            wishes.append((wish, digit))
    return [wish for wish, _ in wishes], torch.tensor([digit for _, digit in wishes])


def train_familiarity(known, digits, others, steps=4000, seed=0):
    """Teach a small network which digit a sentence asks for, or that it asks for something else.

    Takes embeddings (n, 384) of captions, the digits that they name, and embeddings (m, 384) of
    sentences that ask for no single digit; returns a frozen `SentenceLayers` with eleven outputs.
    """
    torch.manual_seed(seed)
    net, generator = SentenceLayers(512, 11, noise=1.0), torch.Generator().manual_seed(seed)
    net.fit_scale(torch.cat([known, others]))

    def loss(step):
        rows = torch.randint(len(known), (700,), generator=generator)
        more = torch.randint(len(others), (540,), generator=generator)
        logits = net(torch.cat([known[rows], others[more]]), generator)
        return F.cross_entropy(logits, torch.cat([digits[rows], torch.full((540,), 10)]))

    fit(net.parameters(), loss, steps, 3e-3, "familiarity")
    return net.requires_grad_(False).eval()


def train():
    """Train on the corpus of `mnist-style` and more wishes, against sentences for no digit."""
    corpus, (wishes, digits) = write_corpus(load_splits()["train"][1]), write_wishes(20_000)
    wishes, others = map(sentence_encoder().encode, (wishes, write_others(48_000)))
    known = torch.cat([corpus.embeddings, wishes])
    net = train_familiarity(known, torch.cat([corpus.digits, digits]), others)
    return net, {"arguments": {"hidden": 512, "output": 11, "noise": 1.0}, "seed": 0}, {}


@torch.no_grad()
def measure(net):
    """Ask about prompts that the network never met: a dict of results.

    Known are the captions of the held-out phrasings and the messy prompts. The area under the ROC
    curve is the chance that a known prompt scores higher than another one.
    """
    def score(sentences):
        return net(sentence_encoder().encode(sentences)).softmax(1)[:, :10].max(1).values

    names = "messy typos far near negations indirect languages compounds validation".split()
    sets = {name: load_prompts(name) for name in names}
    scores = {name: score([p.text for p in prompts]) for name, prompts in sets.items()}
    plain = score(all_captions(HELD_OUT_PHRASINGS)[0])
    results = {}
    for name in ("far", "near"):
        for known, theirs in (("held-out", plain), ("messy", scores["messy"])):
            both = torch.cat([theirs, scores[name]])
            target = [1] * len(theirs) + [0] * len(scores[name])
            results[f"AUROC, {known} against {name}"] = round(roc_auc_score(target, both), 4)
    results["trusted"] = {"held-out": round((plain > 0.5).float().mean().item(), 4)} | {
        name: share_by([p.kind for p in prompts], scores[name] > 0.5)
        for name, prompts in sets.items()
    }
    return results


if __name__ == "__main__":
    run("familiarity", train, measure, {"train": 10, "evaluate": 1}, folder=FAMILIARITY.parent)
