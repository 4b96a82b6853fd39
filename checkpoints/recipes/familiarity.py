"""`familiarity`: the network behind `understands`: does a sentence ask for one digit (notebook 11)?

About five minutes on two cores, nearly all of them for encoding 100,000 sentences.
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
    STYLES,
    TYPING,
    UNSAID,
    WORDS,
    all_captions,
    held_out_forms,
    load_prompts,
    normal_form,
    roughen,
    with_article,
    write_caption,
    write_styled,
)
from helpers.generator import FAMILIARITY
from helpers.metrics import share_by
from helpers.mnist import load_splits
from helpers.models import SentenceLayers
from helpers.text import sentence_encoder
from helpers.training import fit


def _a_thing(rng):
    looks = rng.choice(("", "", "black ", "red ", "old ", "bold ", "thin ", "small ", "big "))
    thing = looks + rng.choice(OTHER.things + OTHER.signs)
    return write_styled(0, [UNSAID] * 4, rng, thing=thing)


def _a_styled_thing(rng):
    letter = rng.choice(ascii_lowercase)
    sign = rng.choice(OTHER.signs)
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
    marks = "!?" * len(words)
    return rng.choice((" ".join(words), f"draw {words[0]}", f"{words[0]} {words[0]}", marks))


def _a_larger_number(rng):
    low, other = rng.randrange(10), rng.choice(WORDS)
    number = rng.choice((
        str(rng.randint(10, 99)), str(rng.randint(100, 2100)),
        rng.choice(OTHER.larger_numbers), rng.choice(OTHER.larger_numbers),
        f"{rng.choice(OTHER.tens)}-{other}", f"{other} hundred", f"{other} thousand", f"{low}th",
    ))
    article = rng.choice(("", "a ", "the number ", "the "))
    return rng.choice((number, rng.choice(FRAMES).format(a=f"{article}{number}")))


def _a_smaller_number(rng):
    digit, other = rng.sample(range(10), 2)
    a, b = WORDS[digit], WORDS[other]
    number = rng.choice((
        f"minus {a}", f"minus {digit}", f"-{digit}", f"negative {a}", f"{digit}.{other}",
        f"{digit},{other}", f"{a} point {b}", f"{a} and a half", f"{digit}/{other}",
        f"a {rng.choice(OTHER.parts)}", f"{a} {rng.choice(OTHER.parts)}s", f"{digit}%",
        f"{a} over {b}",
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
    denial = rng.choice(OTHER.denials)
    denied = write_caption(denial, rng.randrange(10), numeral=rng.random() < 0.5)
    return rng.choice(("{}", "{} please", "draw {}", "I want {}")).format(denied)


def _counted_things(rng):
    digit = rng.randrange(10)
    things = f"{digit if rng.random() < 0.5 else WORDS[digit]} {rng.choice(OTHER.units)}"
    return rng.choice((f"draw {things}", things, f"a picture of {things}", f"I see {things}"))


_WRITERS = (
    _a_thing, _a_styled_thing, _a_letter, _nonsense, _a_larger_number, _a_larger_number,
    _a_smaller_number, _a_choice, _a_denial, _counted_things,
    lambda rng: rng.choice(OTHER.about),
    lambda rng: rng.choice(TYPING.asides + OTHER.abroad),
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


def train_familiarity(known, digits, others, steps=3000, seed=0):
    """Teach a small network which digit a sentence asks for, or that it asks for something else.

    Takes embeddings (n, 384) of captions, the digits that they name, and embeddings (m, 384) of
    sentences that ask for no single digit; returns a frozen `SentenceLayers` with eleven outputs.
    """
    torch.manual_seed(seed)
    net, generator = SentenceLayers(256, 11, noise=1.0), torch.Generator().manual_seed(seed)
    net.fit_scale(torch.cat([known, others]))

    def loss(step):
        rows = torch.randint(len(known), (300,), generator=generator)
        more = torch.randint(len(others), (200,), generator=generator)
        logits = net(torch.cat([known[rows], others[more]]), generator)
        return F.cross_entropy(logits, torch.cat([digits[rows], torch.full((200,), 10)]))

    fit(net.parameters(), loss, steps, 3e-3, "familiarity")
    return net.requires_grad_(False).eval()


def train():
    """Train on the corpus of `mnist-style`, against sentences that ask for no single digit."""
    corpus = write_corpus(load_splits()["train"][1])
    others = sentence_encoder().encode(write_others(20_000))
    net = train_familiarity(corpus.embeddings, corpus.digits, others)
    return net, {"arguments": {"hidden": 256, "output": 11, "noise": 1.0}, "seed": 0}, {}


@torch.no_grad()
def measure(net):
    """Ask about prompts that the network never met: a dict of results.

    Known are the captions of the held-out phrasings and the messy prompts. The area under the ROC
    curve is the chance that a known prompt scores higher than another one.
    """
    def score(sentences):
        return net(sentence_encoder().encode(sentences)).softmax(1)[:, :10].max(1).values

    sets = {name: load_prompts(name) for name in ("messy", "far", "near", "negations", "indirect")}
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
    run("familiarity", train, measure, {"train": 5, "evaluate": 1}, folder=FAMILIARITY.parent)
