"""`mnist-style`: the CVAE that is also told how to draw: thick, say (12_say_how_to_draw_it).

Twelve minutes on two cores, and eight for measuring.
"""

import functools
import random
from typing import NamedTuple

import torch
from measuring import Snapshots, measure_curve, measure_digits
from running import run

from helpers.captions import (
    HELD_OUT_CELLS,
    HELD_OUT_PHRASINGS,
    LEVELS,
    STYLES,
    TRAINING_PHRASINGS,
    UNSAID,
    all_captions,
    caption_pictures,
    known_captions,
    load_prompts,
    styled_captions,
    write_styled,
)
from helpers.checkpoints import describe_captions
from helpers.metrics import (
    HELD_OUT_FRAMES,
    MIDDLES,
    draw_prompts,
    in_third,
    measure_templates,
    name_digits,
    share_by,
)
from helpers.mnist import load_splits, to_float
from helpers.models import StyleCVAE
from helpers.steering import caption_styles, train_prior, train_style_head
from helpers.strokes import Reference, load_strokes, measure_styles, rank_within_digit
from helpers.text import sentence_encoder
from helpers.training import (
    MNIST_RECIPE,
    pair_batches,
    proofread,
    toss_pixels,
    train_cvae,
    train_proofreader,
)


class Corpus(NamedTuple):
    """What the reader learns from; the first captions are those of the training pictures."""

    embeddings: torch.Tensor  # (n, 384)
    digits: torch.Tensor      # (n,), what they name
    named: torch.Tensor       # (n, 4), the levels that they name
    known: torch.Tensor       # (7380, 384), encoded `known_captions`
    styles: tuple             # measures and ranks of the training pictures, (55000, 4) each


def write_corpus(labels, more=20_000):
    """Write captions for the training pictures, others besides, and encode them: a `Corpus`."""
    captions, named, measures, ranks = caption_styles(labels)
    generator = torch.Generator().manual_seed(0)
    levels = torch.randint(len(LEVELS), (more, len(STYLES)), generator=generator) - 2
    digits = torch.randint(10, (more,), generator=generator)
    others, others_named = caption_pictures(levels, digits, seed=1)
    _, plain = all_captions(TRAINING_PHRASINGS)
    _, styled, styled_named = styled_captions(len(known_captions()) - len(plain))
    nothing = torch.full((len(plain), len(STYLES)), UNSAID)
    encode = sentence_encoder().encode
    known = encode(list(known_captions()))
    return Corpus(
        torch.cat([encode(captions), encode(others), known]),
        torch.cat([labels, digits, plain, styled]),
        torch.cat([named, others_named, nothing, styled_named]),
        known, (measures, ranks),
    )


def train():
    """Train the reader, then the CVAE on what it reads, then the prior."""
    snapshots = Snapshots()
    images, labels = load_splits()["train"]
    named = describe_captions(known_captions())
    corpus = write_corpus(labels)
    pictures, captions = to_float(images), corpus.embeddings[: len(labels)]
    proofreader = train_proofreader(images, labels)
    torch.manual_seed(0)
    model = StyleCVAE()
    train_style_head(model.head, corpus.embeddings, corpus.digits, corpus.named)
    model, _ = train_cvae(
        model, lambda g: toss_pixels(pair_batches(pictures, captions, 250, g), g), **MNIST_RECIPE,
        penalty=functools.partial(proofread, proofreader=proofreader), after_epoch=snapshots,
    )
    train_prior(model, corpus.embeddings, images, labels, corpus.styles, proofreader)
    results = {"training seconds": round(snapshots.seconds()), "curve": measure_curve(snapshots)}
    facts = {"seed": 0, "results": results, "captions": named}
    return model, facts, {"captions": corpus.known.half()}


def measure(model):
    """Measure what it draws, and how well it does what a sentence says."""
    return measure_digits(model, lambda *both: {"styles": measure_obedience(*both)})


def measure_obedience(model, yardstick):
    """Measure all that 12_say_how_to_draw_it promises: a dict of results."""
    reference, judge = Reference(), yardstick.judge
    return {
        "styled": measure_templates(model, "styled", reference, judge),
        "synonyms": measure_templates(model, "synonyms", reference, judge),
        "slopes": measure_slopes(model, reference),
        "cells": measure_cells(model, reference, judge),
        "unnamed": measure_unnamed(model, yardstick, reference),
        "readers": measure_readers(model, judge),
    }


def measure_slopes(model, reference, n=6, seed=0):
    """Ask for every level of one attribute at a time and compare it with what is measured.

    Returns:
        A dict from style to the slope and R² of a straight line through requested and measured
        ranks; both would be 1 if every drawing had the middle rank of its level.
    """
    rng, results = random.Random(seed), {}
    for column, style in enumerate(STYLES):
        asked = [(digit, level) for digit in range(10) for level in LEVELS for _ in range(n)]
        prompts = []
        for digit, level in asked:
            levels = [level if k == column else UNSAID for k in range(len(STYLES))]
            prompts.append(write_styled(digit, levels, rng, HELD_OUT_FRAMES))
        digits, levels = torch.tensor(asked).repeat_interleave(2, dim=0).T
        measured = reference.rank(draw_prompts(model, prompts, 2), digits)[:, column]
        requested = torch.tensor(MIDDLES)[levels + 2]
        slope = torch.cov(torch.stack([requested, measured]))
        results[style] = {
            "slope": round((slope[0, 1] / slope[0, 0]).item(), 3),
            "R²": round((slope[0, 1] ** 2 / slope[0, 0] / slope[1, 1]).item(), 3),
        }
    return results


def measure_cells(model, reference, judge, n=100):
    """Draw digit × thickness × slant: the cells that no caption named together, and all others.

    Every cell is asked for in the same n ways, four drawings each.

    Returns:
        A dict with both shares in the requested thirds, and the share of right digits.
    """
    cells = [(d, t, s) for d in range(10) for t in (-1, 1) for s in (-1, 1)]
    prompts = [
        write_styled(d, [t, s, UNSAID, UNSAID], random.Random(way), HELD_OUT_FRAMES)
        for d, t, s in cells for way in range(n)
    ]
    pictures = draw_prompts(model, prompts, 4)
    digits, thickness, slant = torch.tensor(cells).repeat_interleave(4 * n, dim=0).T
    ranks = reference.rank(pictures, digits)
    hits = torch.stack([in_third(ranks[:, 0], thickness), in_third(ranks[:, 1], slant)], 1).float()
    right = (name_digits(judge, pictures) == digits).float()
    held = torch.tensor([cell in HELD_OUT_CELLS for cell in cells]).repeat_interleave(4 * n)
    return {
        name: {
            "thickness": round(hits[rows, 0].mean().item(), 4),
            "slant": round(hits[rows, 1].mean().item(), 4),
            "both": round(hits[rows].prod(1).mean().item(), 4),
            "digit": round(right[rows].mean().item(), 4),
            "cells": int(rows.sum()) // (4 * n),
        }
        for name, rows in (("named in training", ~held), ("held out", held))
    }


def measure_unnamed(model, yardstick, reference):
    """Compare the styles of 10,000 drawings of plain prompts with those of the real test set.

    Returns:
        A dict from style to the distance of the drawings and that of 10,000 training pictures.
    """
    embeddings, digits = yardstick.prompts["held-out"]
    pictures, _, rows = yardstick.draw(model, embeddings, digits)
    drawn = reference.rank(pictures, digits[rows])
    test = measure_styles(load_strokes(train=False))
    real = rank_within_digit(test, yardstick.test_labels, reference.measures, reference.digits)
    train = slice(0, 10_000)
    others = rank_within_digit(
        reference.measures[train], reference.digits[train], reference.measures, reference.digits
    )
    return {
        style: {
            "drawn": round(distance_in_ranks(drawn[:, k], real[:, k]), 4),
            "real": round(distance_in_ranks(others[:, k], real[:, k]), 4),
        }
        for k, style in enumerate(STYLES)
    }


def distance_in_ranks(ranks, others):
    """Compare the distributions of ranks (n,) and (m,): the Wasserstein distance, 0 to 1."""
    steps = (torch.arange(1000) + 0.5) / 1000
    return (ranks.quantile(steps) - others.quantile(steps)).abs().mean().item()


def measure_readers(model, judge, n=5):
    """Draw prompts as people type them: the share that shows the digit that was meant."""
    results = {}
    for name in ("messy", "typos", "indirect"):
        prompts = load_prompts(name)
        pictures = draw_prompts(model, [prompt.text for prompt in prompts], n)
        digits = torch.tensor([int(prompt.answer) for prompt in prompts]).repeat_interleave(n)
        right = (name_digits(judge, pictures) == digits).float()
        kinds = [prompt.kind for prompt in prompts for _ in range(n)]
        results[name] = {"all": round(right.mean().item(), 4)} | share_by(kinds, right)
    sentences, digits = misspelled_sentences()
    pictures = draw_prompts(model, sentences, 1)
    right = name_digits(judge, pictures) == torch.tensor(digits)
    return results | {"typos in sentences": round(right.float().mean().item(), 4)}


def misspelled_sentences(each=10, seed=0):
    """Put the misspelled words of "typos" into held-out phrasings: sentences and digits."""
    rng, sentences, digits = random.Random(seed), [], []
    for prompt in load_prompts("typos"):
        digit = int(prompt.answer)
        for phrasing in rng.sample(HELD_OUT_PHRASINGS, each):
            gap = phrasing.replace("{digits}", "{digit}s")
            article = "an" if digit == 8 else "a"
            sentences.append(gap.format(digit=prompt.text, a=f"{article} {prompt.text}"))
            digits.append(digit)
    return sentences, digits


if __name__ == "__main__":
    run("mnist-style", train, measure, minutes={"train": 22, "evaluate": 8})
