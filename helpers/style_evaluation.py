"""How well `mnist-style` does what a sentence says, and who asks for a digit (notebook 11)."""

import random
import re

import torch
from sklearn.metrics import roc_auc_score

from helpers.captions import HELD_OUT_PHRASINGS, all_captions, write_caption
from helpers.everyday import load_prompts
from helpers.generator import sentence_encoder
from helpers.metrics import name_digits
from helpers.mnist import load_splits
from helpers.strokes import load_strokes, measure_strokes, measure_styles
from helpers.styles import (
    HELD_OUT_CELLS,
    LEVELS,
    STYLES,
    UNSAID,
    rank_within_digit,
    write_styled,
)

MIDDLES = (0.06, 0.24, 0.50, 0.76, 0.94)  # the middle rank of each level
# Held-out phrasings that can take a style of their own: they bring none.
HELD_OUT_FRAMES = tuple(
    phrasing for phrasing in HELD_OUT_PHRASINGS
    if "{a}" in phrasing and not any(word in phrasing for word in ("thick", "tiny"))
)


def in_third(ranks, levels):
    """Say whether ranks lie in the third that a level names: low, middle or high.

    Args:
        ranks: float32 tensor (n,) with values from 0 to 1.
        levels: int64 tensor (n,), -2 to 2.

    Returns:
        bool tensor (n,).
    """
    third = (ranks * 3).long().clamp(max=2) - 1
    return third == levels.sign()


class Reference:
    """The real pictures that drawings are ranked among.

    Attributes:
        digits, measures: of the 55,000 training pictures, (n,) and (n, 4).
    """

    def __init__(self):
        _, self.digits = load_splits()["train"]
        self.measures = measure_styles(load_strokes()[: len(self.digits)])

    def rank(self, pictures, digits):
        """Measure pictures (n, 1, 28, 28) that should show digits (n,): ranks (n, 4)."""
        measures = measure_styles(measure_strokes(pictures))
        return rank_within_digit(measures, digits, self.measures, self.digits)


@torch.no_grad()
def draw_prompts(model, prompts, n, seed=0):
    """Draw n pictures for each of m prompts, each from its own code: (m * n, 1, 28, 28)."""
    inputs = sentence_encoder().encode(prompts).repeat_interleave(n, dim=0)
    generator = torch.Generator().manual_seed(seed)
    parts = inputs.split(1000)
    z = [torch.randn(len(part), model.latent, generator=generator) for part in parts]
    return torch.cat([model.draw(*pair) for pair in zip(parts, z, strict=True)])


def fill_templates(name):
    """Write the ten prompts of each line of "styled" or "synonyms".

    Returns:
        A list of (kind, place in `STYLES`, level, digit, template, prompt); odd digits as numerals.
    """
    rows = []
    for kind, answer, template in load_prompts(name):
        style, level = answer.split()
        for digit in range(10):
            prompt = write_caption(template, digit, numeral=digit % 2 == 1)
            rows.append((kind, STYLES.index(style), int(level), digit, template, prompt))
    return rows


def measure_templates(model, name, reference, judge, n=4):
    """Draw the prompts of "styled" or "synonyms" and measure what comes out.

    Returns:
        A dict: the share in the requested third by kind and by template, and how many pictures show
        the digit.
    """
    rows = fill_templates(name)
    pictures = draw_prompts(model, [row[-1] for row in rows], n)
    rows = [row for row in rows for _ in range(n)]
    digits = torch.tensor([row[3] for row in rows])
    ranks = reference.rank(pictures, digits)
    ranks = ranks[torch.arange(len(rows)), torch.tensor([row[1] for row in rows])]
    hits = in_third(ranks, torch.tensor([row[2] for row in rows])).float()
    right = name_digits(judge, pictures) == digits
    return {
        "in the requested third": share_by([row[0] for row in rows], hits),
        "by template": share_by([row[4] for row in rows], hits),
        "digit": round(right.float().mean().item(), 4),
        "pictures": len(rows),
    }


def share_by(kinds, hits):
    """Average hits (n,) over each of n kinds: a dict from kind to share."""
    shares = {}
    for kind in dict.fromkeys(kinds):
        rows = torch.tensor([other == kind for other in kinds])
        shares[kind] = round(hits[rows].float().mean().item(), 4)
    return shares


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


def distance_in_ranks(ranks, others):
    """Compare the distributions of ranks (n,) and (m,): the Wasserstein distance, 0 to 1."""
    steps = (torch.arange(1000) + 0.5) / 1000
    return (ranks.quantile(steps) - others.quantile(steps)).abs().mean().item()


def measure_unnamed(pictures, digits, reference):
    """Compare the styles of drawings that no prompt spoke of with those of the real test set.

    Args:
        pictures, digits: 10,000 pictures of plain prompts, and what these ask for.
        reference: a `Reference`.

    Returns:
        A dict from style to the distance of the drawings and that of 10,000 training pictures.
    """
    test = measure_styles(load_strokes(train=False))
    _, labels = load_splits()["test"]
    real = rank_within_digit(test, labels, reference.measures, reference.digits)
    train = slice(0, 10_000)
    others = rank_within_digit(
        reference.measures[train], reference.digits[train], reference.measures, reference.digits
    )
    drawn = reference.rank(pictures, digits)
    return {
        style: {
            "drawn": round(distance_in_ranks(drawn[:, k], real[:, k]), 4),
            "real": round(distance_in_ranks(others[:, k], real[:, k]), 4),
        }
        for k, style in enumerate(STYLES)
    }


def misspelled_sentences(each=10, seed=0):
    """Put the misspelled words of "typos" into held-out phrasings: sentences and digits."""
    rng, sentences, digits = random.Random(seed), [], []
    for prompt in load_prompts("typos"):
        digit = int(prompt.answer)
        for phrasing in rng.sample(HELD_OUT_PHRASINGS, each):
            gap = re.sub(r"\{digits\}", "{digit}s", phrasing)
            article = "an" if digit == 8 else "a"
            sentences.append(gap.format(digit=prompt.text, a=f"{article} {prompt.text}"))
            digits.append(digit)
    return sentences, digits


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


def measure_styles_of(model, yardstick):
    """Measure all that notebook 11 promises of a `StyleCVAE`: a dict, ready for JSON."""
    reference = Reference()
    embeddings, digits = yardstick.prompts["held-out"]
    pictures, _, rows = yardstick.draw(model, embeddings, digits)
    return {
        "styled": measure_templates(model, "styled", reference, yardstick.judge),
        "synonyms": measure_templates(model, "synonyms", reference, yardstick.judge),
        "slopes": measure_slopes(model, reference),
        "cells": measure_cells(model, reference, yardstick.judge),
        "unnamed": measure_unnamed(pictures, digits[rows], reference),
        "readers": measure_readers(model, yardstick.judge),
    }


def measure_familiarity(net):
    """Ask a network of familiarity about prompts that it never met: a dict, ready for JSON.

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
