"""Teaching a model to obey words of style: reader, ruler, prior (12_say_how_to_draw_it)."""

import torch
import torch.nn.functional as F

from helpers.captions import UNSAID, caption_pictures
from helpers.doors import on_device
from helpers.mnist import to_float
from helpers.models import Ruler, kl_divergence
from helpers.strokes import (
    level_of,
    load_strokes,
    measure_strokes,
    measure_styles,
    rank_within_digit,
)
from helpers.training import fit


def caption_styles(labels):
    """Caption the first n training pictures: captions, levels named, measures, ranks (n, 4)."""
    measures = measure_styles(load_strokes()[: len(labels)])
    ranks = rank_within_digit(measures, labels, measures, labels)
    captions, named = caption_pictures(level_of(ranks), labels)
    return captions, named, measures, ranks


def write_conditions(digits, levels):
    """Write what a perfect reader would answer: digits (n,), levels (n, 4) → conditions (n, 34)."""
    levels = F.one_hot(levels + 2, 6).flatten(1)
    return torch.cat([F.one_hot(digits, 10), levels], dim=1).float()


def conditions_of(labels):
    """Write the condition of each training picture, as its caption would be read: (n, 34)."""
    return write_conditions(labels, caption_styles(labels)[1])


# The ranks that a drawing of each level should have: a little inside the level, so that what is
# blurred at its ends stays in the third that it belongs to.
LOW, HIGH = torch.tensor([0.0, 0.1, 0.4, 0.7, 0.9]), torch.tensor([0.1, 0.3, 0.6, 0.9, 1.0])


@on_device
def train_style_head(head, embeddings, digits, named, steps=4000, batch=512, seed=0):
    """Teach a style head digits (n,) and named levels (n, 4), then freeze it: the losses."""
    generator = torch.Generator().manual_seed(seed)
    head.read.fit_scale(embeddings)
    head.train()

    def loss(step):
        rows = torch.randint(len(embeddings), (batch,), generator=generator)
        digit, levels = head.logits(embeddings[rows], generator)
        wrong_level = F.cross_entropy(levels.flatten(0, 1), named[rows].flatten() + 2)
        return F.cross_entropy(digit, digits[rows]) + 4 * wrong_level

    losses = fit(head.parameters(), loss, steps, 3e-3, "style head")
    head.requires_grad_(False)
    return losses


@on_device
def train_ruler(ruler, pictures, ranks, steps=1500, rate=3e-3, seed=0):
    """Teach a `Ruler` the ranks (n, 4) of pictures (n, 1, 28, 28), then freeze it: the losses."""
    generator = torch.Generator().manual_seed(seed)
    ruler.requires_grad_(True)

    def loss(step):
        rows = torch.randint(len(pictures), (250,), generator=generator)
        return F.mse_loss(ruler(pictures[rows]), ranks[rows])

    losses = fit(ruler.parameters(), loss, steps, rate)
    ruler.zero_grad()
    ruler.requires_grad_(False)
    return losses


@torch.no_grad()
def draw_and_measure(model, embeddings, digits, measures, n=3000, seed=0):
    """Draw n of the captions (m, 384): pictures, and their ranks among the real measures (m, 4)."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randint(len(digits), (n,), generator=generator)
    z = torch.randn(n, model.latent, generator=generator)
    pairs = zip(embeddings[rows].split(500), z.split(500), strict=True)
    pictures = torch.cat([model.draw(*pair) for pair in pairs])
    drawn = measure_styles(measure_strokes(pictures))
    return pictures, rank_within_digit(drawn, digits[rows], measures, digits)


def style_error(ranks, levels, silence=0.15):
    """How far drawings miss what was asked of them, in ranks, averaged over pictures: a scalar.

    Of a named level it is the distance from its range; unnamed ranks should be spread evenly, and
    their Wasserstein distance from that counts `silence` times. Ranks and levels are (n, 4).
    """
    named = levels != UNSAID
    place = (levels + 2).clamp(max=4)
    low, high = LOW.to(ranks.device)[place], HIGH.to(ranks.device)[place]
    outside = F.relu(low - ranks) + F.relu(ranks - high)
    total = (outside * named).sum() / len(ranks)
    for column, silent in zip(ranks.T, ~named.T, strict=True):
        row = column[silent].sort().values
        even = (torch.arange(len(row), device=row.device) + 0.5) / max(len(row), 1)
        total = total + silence * (row - even).abs().sum() / len(ranks)
    return total


@on_device
def train_prior(model, embeddings, images, labels, styles, proofreader, steps=900):
    """Teach the prior of a `StyleCVAE` which codes draw what a caption asks; nothing else changes.

    Takes embeddings (m, 384), whose first n belong to the images (n, 28, 28), and as `styles` their
    measures and ranks, (n, 4) each; returns the errors of ranks and digits and the KL by step.
    """
    torch.manual_seed(0)
    device, (measures, ranks), drawn, history = embeddings.device, styles, [], []
    generator, ruler = torch.Generator().manual_seed(0), Ruler().to(device)
    real, labels = to_float(images.cpu()), labels.cpu()  # strokes are measured on the CPU
    train_ruler(ruler, real, ranks, device=device)
    reads = proofreader.to(device)

    def loss(step):
        if step % 150 == 0:
            drawn.append(draw_and_measure(model, embeddings, labels, measures, seed=step // 150))
            recalibrate(ruler, drawn[-4:], (real[:4000], ranks[:4000]), seed=step // 150)
        rows = torch.randint(len(embeddings), (256,), generator=generator)
        condition = model.head(embeddings[rows])
        z = torch.randn(len(rows), model.latent, generator=generator).to(device)
        pictures = model.decode(model.place(z, condition), condition).sigmoid()
        mean, log_scale = model.prior(condition).chunk(2, dim=1)
        missed = style_error(ruler(pictures), model.head.levels(condition).argmax(2) - 2)
        misread = F.cross_entropy(reads(pictures), model.head.digit(condition).argmax(1))
        kl = kl_divergence(mean, 2 * log_scale).sum(1).mean()
        history.append([missed.item(), misread.item(), kl.item()])
        return 150 * missed + 20 * misread + kl

    model.eval().requires_grad_(False)
    model.prior.requires_grad_(True)
    fit(model.prior.parameters(), loss, steps, 3e-3, "prior")
    model.prior.requires_grad_(False)
    return history


def recalibrate(ruler, drawn, real, seed):
    """Let a ruler go on learning from drawings and real pictures, each (pictures, ranks)."""
    pictures, ranks = (torch.cat(parts) for parts in zip(*drawn, real, strict=True))
    device = next(ruler.parameters()).device
    train_ruler(ruler, pictures, ranks, steps=300, rate=1e-3, seed=seed, device=device)
