"""Independent judges and what they measure; a judge never takes part in training a generator.

One of shapes (05_shapes_cvae), A of digits and B of features (11_how_good_is_it); styles.
"""

import hashlib
import math
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load
from torch import nn

from helpers import restore
from helpers.captions import HELD_OUT_PHRASINGS, STYLES, load_prompts, write_caption
from helpers.doors import check_pictures, choose_device
from helpers.mnist import to_float
from helpers.shapes import PROMPTS, draw_all_shapes, draw_shapes
from helpers.text import CharacterTokenizer, sentence_encoder
from helpers.training import constant, fit, train_classifier

JUDGES = Path(__file__).resolve().parents[1] / "checkpoints" / "judges"
JUDGE_SHA256 = {
    "digits": "ce9cddc64cad320690796023ae6d04188a7a010b4c19b54d8e995831dc97f2aa",
    "features": "e1a25b757a1461e32f974affe40b7a8d88f0f2e5cc7f2491b7dea9d58640feca",
}

MIDDLES = (0.06, 0.24, 0.50, 0.76, 0.94)  # the middle rank of each level
# Held-out phrasings that can take a style of their own: they bring none.
HELD_OUT_FRAMES = tuple(
    phrasing for phrasing in HELD_OUT_PHRASINGS
    if "{a}" in phrasing and not any(word in phrasing for word in ("thick", "tiny"))
)


class DigitJudge(nn.Sequential):
    """Judge A, like LeNet (LeCun et al., 1998), on real MNIST: (n, 1, 28, 28) → (n, 10) logits."""

    def __init__(self):
        super().__init__(
            nn.Conv2d(1, 32, 5), nn.ReLU(), nn.MaxPool2d(2),   # 32×12×12
            nn.Conv2d(32, 64, 5), nn.ReLU(), nn.MaxPool2d(2),  # 64×4×4
            nn.Flatten(),                                      # 1024
            nn.Dropout(0.4),
            nn.Linear(1024, 128), nn.ReLU(),                   # 128
            nn.Dropout(0.4),
            nn.Linear(128, 10),                                # 10
        )


def _block(channels, features, stride=1):
    """Convolution, batch norm, ReLU."""
    return [
        nn.Conv2d(channels, features, 3, stride, padding=1, bias=False),
        nn.BatchNorm2d(features),
        nn.ReLU(),
    ]


class FeatureJudge(nn.Sequential):
    """Judge B, whose last layer but one describes a picture: (n, 1, 28, 28) → (n, 10) logits."""

    def __init__(self):
        super().__init__(
            *_block(1, 24), *_block(24, 24, 2),            # 24×14×14
            *_block(24, 48), *_block(48, 48, 2),           # 48×7×7
            *_block(48, 96),                               # 96×7×7
            nn.AdaptiveAvgPool2d(1), nn.Flatten(),         # 96
            nn.Linear(96, 10),                             # 10
        )

    def describe(self, pictures, batch=1000):
        """Map pictures (n, 1, 28, 28) to features (n, 96), float64 on the CPU."""
        return ask(nn.Sequential(*list(self)[:-1]), pictures, batch).double()


def load_judge(name, device=None):
    """Load judge A, "digits", or B, "features"; ValueError if the file is not the released one.

    It computes on `device`, see `choose_device`; it is asked and answers on the CPU.
    """
    path = JUDGES / f"{name}.safetensors"
    packed = path.read_bytes() if path.is_file() else b""
    if hashlib.sha256(packed).hexdigest() != JUDGE_SHA256[name]:
        raise ValueError(f"{path} is not the released judge: {restore('checkpoints')}.")
    judge = {"digits": DigitJudge, "features": FeatureJudge}[name]()
    judge.load_state_dict(load(packed))
    device = choose_device(device)
    if device.type != "cpu":
        judge.register_forward_pre_hook(lambda _, given: tuple(x.to(device) for x in given))
        judge.register_forward_hook(lambda _, given, answer: answer.cpu())
    return judge.eval().to(device)


@torch.no_grad()
def ask(judge, pictures, batch=1000):
    """Ask a network about pictures (n, 1, 28, 28) in [0, 1] where it computes: its answers."""
    check_pictures(pictures)
    device = next(judge.parameters(), pictures).device
    return torch.cat([judge(part.to(device)).cpu() for part in pictures.split(batch)])


def name_digits(judge, pictures, batch=1000):
    """Ask a judge which of its classes each picture shows: (n, 1, 28, 28) in [0, 1] → (n,)."""
    return ask(judge, pictures, batch).argmax(1)


class ShapeJudge(nn.Sequential):
    """A small classifier of the nine shapes: (n, 1, 28, 28) → (n, 9) logits."""

    def __init__(self):
        super().__init__(
            nn.Conv2d(1, 16, 3, stride=2, padding=1), nn.ReLU(),   # n×16×14×14
            nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.ReLU(),  # n×32×7×7
            nn.Flatten(),                                          # n×1568
            nn.Linear(1568, 64), nn.ReLU(),                        # n×64
            nn.Linear(64, len(PROMPTS)),                           # n×9
        )


def train_shape_judge(steps=1500, seed=99, device=None):
    """Train a `ShapeJudge` on fresh drawings, 144 a step, whose greys are read as probabilities."""
    torch.manual_seed(seed)
    generator, device = torch.Generator().manual_seed(seed), choose_device(device)
    judge = ShapeJudge().to(device)

    def loss(step):
        pictures, prompt_ids = draw_all_shapes(16, generator)
        pixels = pictures.bernoulli(generator=generator)[:, None]
        return F.cross_entropy(judge(pixels.to(device)), prompt_ids.to(device))

    fit(judge.parameters(), loss, steps, rate=1e-3, name="judge", schedule=constant)
    return judge.eval().cpu()


@torch.no_grad()
def draw_balanced(model, inputs, digits, n=10_000, seed=0, temperature=1.0):
    """Draw from the prior, as many of each digit: pictures (n, 1, 28, 28), rows of inputs (n,)."""
    if n < 10 or n % 10:
        raise ValueError(f"n is {n}: ask for as many of each of ten digits, a multiple of 10.")
    generator = torch.Generator().manual_seed(seed)
    pictures, chosen = [], []
    for digit in range(10):
        rows = (digits == digit).nonzero()[:, 0]
        rows = rows[torch.randint(len(rows), (n // 10,), generator=generator)]
        z = temperature * torch.randn(n // 10, model.latent, generator=generator)
        pictures.append(model.draw(inputs[rows], z))
        chosen.append(rows)
    return torch.cat(pictures), torch.cat(chosen)


def prompt_accuracy(model, inputs, digits, judge, n=10_000, seed=0):
    """Count what shows the digit asked for (`draw_balanced`): the share of all, (10,) per digit."""
    pictures, rows = draw_balanced(model, inputs, digits, n, seed)
    shares = (name_digits(judge, pictures) == digits[rows]).float().reshape(10, -1).mean(1)
    return shares.mean().item(), shares


def wilson_interval(share, n, z=1.96):
    """Give the 95% interval of a share of n independent trials (Wilson, 1927): low, high."""
    if not (n >= 1 and 0 <= share <= 1):
        raise ValueError(f"A share is from 0 to 1, of at least one trial, not {share} of {n}.")
    middle = share + z**2 / (2 * n)
    half = z * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    low, high = (middle - half) / (1 + z**2 / n), (middle + half) / (1 + z**2 / n)
    return max(0.0, low), min(1.0, high)


def check_features(real, drawn, least):
    """Refuse features that are not finite (n, d) and (m, d), with n and m at least `least`."""
    shapes = [tuple(x.shape) for x in (real, drawn)]
    if [len(s) for s in shapes] != [2, 2] or shapes[0][1] != shapes[1][1]:
        raise ValueError(f"Features have shapes (n, d) and (m, d), not {shapes[0]}, {shapes[1]}.")
    if min(len(real), len(drawn)) < least:
        raise ValueError(f"{len(real)} and {len(drawn)} rows are too few: give at least {least}.")
    if not (real.isfinite().all() and drawn.isfinite().all()):
        raise ValueError("Features are not finite: look for NaN in the pictures.")


def frechet_distance(real, drawn):
    """Compare Gaussians fitted to features (n, d), (m, d), as FID does (Heusel et al., 2017)."""
    check_features(real, drawn, least=2)
    gap = real.mean(0) - drawn.mean(0)
    a, b = real.T.cov(), drawn.T.cov()
    sizes, axes = torch.linalg.eigh(a)
    root = axes * sizes.clamp(min=0).sqrt()  # root @ root.T is a
    roots = torch.linalg.eigvalsh(root.T @ b @ root).clamp(min=0).sqrt()
    return max(0.0, (gap.square().sum() + a.trace() + b.trace() - 2 * roots.sum()).item())


def kernel_distance(real, drawn, subsets=100, size=1000, seed=0):
    """Squared MMD of features (n, d), (m, d), cubic kernel: KID (Bińkowski et al., 2018)."""
    check_features(real, drawn, least=max(size, 2))
    generator = torch.Generator().manual_seed(seed)
    distances = []
    for _ in range(subsets):
        x = real[torch.randperm(len(real), generator=generator)[:size]]
        y = drawn[torch.randperm(len(drawn), generator=generator)[:size]]
        xx, yy, xy = ((a @ b.T / a.shape[1] + 1) ** 3 for a, b in ((x, x), (y, y), (x, y)))
        pairs = (xx.sum() - xx.trace() + yy.sum() - yy.trace()) / (size * (size - 1))
        distances.append(pairs - 2 * xy.mean())
    return torch.stack(distances).mean().item()


def precision_recall_density_coverage(real, drawn, k=5):
    """Of (n, d), (m, d) by k-th neighbours (Kynkäänniemi et al., 2019; Naeem et al., 2020)."""
    check_features(real, drawn, least=k + 1)
    between = torch.cdist(real, drawn)                           # n×m
    real_radius = torch.cdist(real, real).kthvalue(k + 1).values    # n; the nearest is the point
    drawn_radius = torch.cdist(drawn, drawn).kthvalue(k + 1).values  # m
    in_real = between <= real_radius[:, None]
    in_drawn = between <= drawn_radius
    return {
        "precision": in_real.any(0).double().mean().item(),
        "recall": in_drawn.any(1).double().mean().item(),
        "density": in_real.double().sum(0).mean().item() / k,
        "coverage": in_real.any(1).double().mean().item(),
    }


def accuracy_after_training_on(pictures, digits, test_images, test_labels, epochs=8, seed=0):
    """Train on pictures (n, 1, 28, 28), test on real (m, 28, 28) (Ravuri and Vinyals, 2019)."""
    images = (pictures[:, 0] * 255).round().to(torch.uint8)
    torch.manual_seed(seed)
    student = train_classifier(DigitJudge(), images, digits, epochs)
    return (name_digits(student, to_float(test_images)) == test_labels).float().mean().item()


def nearest_pictures(pictures, others, batch=500):
    """Find the nearest of others (m, 1, 28, 28): Euclidean distances (n,) and their rows (n,)."""
    flat = others.flatten(1)
    parts = pictures.flatten(1).split(batch)
    rows = torch.cat([torch.cdist(part, flat).argmin(1) for part in parts])
    return (pictures - others[rows]).flatten(1).norm(dim=1), rows  # cdist rounds small distances


def binarise(images, seed=0):
    """Toss every pixel with its grey level as probability: uint8 (n, 28, 28) → (n, 1, 28, 28)."""
    return to_float(images).bernoulli(generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def log_weights(model, pictures, inputs, samples, generator):
    """log p(x|z, c) + log p(z) − log q(z|x, c) of sampled codes: (samples, n) nats."""
    condition = model.head(inputs)
    mean, log_variance = model.encode(pictures, condition)
    epsilon = torch.randn(samples, *mean.shape, generator=generator)
    z = mean + (log_variance / 2).exp() * epsilon                          # samples×n×20
    logits = model.decode(z.flatten(0, 1), condition.repeat(samples, 1))
    ink = pictures.flatten(1).expand(samples, -1, -1)
    cost = F.binary_cross_entropy_with_logits(logits.view_as(ink), ink, reduction="none")
    prior_minus_posterior = (epsilon**2 + log_variance - z**2) / 2
    return prior_minus_posterior.sum(2) - cost.sum(2)


def log_mean(weights):
    """Average probabilities: log weights (samples, n) → (n,) nats (IWAE, Burda et al., 2016)."""
    return weights.logsumexp(0) - math.log(len(weights))


@torch.no_grad()
def shape_accuracy_and_variety(model, judge, n=500):
    """Per prompt: share that a judge recognises (9,), variance over the program's (9,)."""
    tokens = CharacterTokenizer().encode(PROMPTS)
    z = torch.randn(n, model.latent, generator=torch.Generator().manual_seed(0))
    toss = torch.Generator().manual_seed(1)
    accuracies, ratios = torch.zeros(len(PROMPTS)), torch.zeros(len(PROMPTS))
    for k, prompt in enumerate(PROMPTS):
        pictures = model.draw(tokens[[k]].expand(n, -1), z)
        named = name_digits(judge, pictures.bernoulli(generator=toss))
        accuracies[k] = (named == k).float().mean()
        ratios[k] = pictures.var(0).mean() / draw_shapes(prompt, n, seed=5).var(0).mean()
    return accuracies, ratios


def in_third(ranks, levels):
    """Say whether ranks (n,) from 0 to 1 lie in the third that levels (n,) from -2 to 2 name."""
    third = (ranks * 3).long().clamp(max=2) - 1
    return third == levels.sign()


@torch.no_grad()
def draw_prompts(model, prompts, n, seed=0):
    """Draw n pictures for each of m prompts, each from its own code: (m * n, 1, 28, 28)."""
    inputs = sentence_encoder().encode(prompts).repeat_interleave(n, dim=0)
    generator = torch.Generator().manual_seed(seed)
    parts = inputs.split(1000)
    z = [torch.randn(len(part), model.latent, generator=generator) for part in parts]
    return torch.cat([model.draw(*pair) for pair in zip(parts, z, strict=True)])


def fill_templates(name):
    """Fill "styled" or "synonyms": (kind, place in `STYLES`, level, digit, template, prompt)."""
    rows = []
    for kind, answer, template in load_prompts(name):
        style, level = answer.split()
        for digit in range(10):
            prompt = write_caption(template, digit, numeral=digit % 2 == 1)
            rows.append((kind, STYLES.index(style), int(level), digit, template, prompt))
    return rows


def measure_templates(model, name, reference, judge, n=4):
    """Draw n pictures of each prompt of `fill_templates`: shares in the requested third, of digits.

    `reference` is a `strokes.Reference`, `judge` names digits.
    """
    rows = fill_templates(name)
    pictures = draw_prompts(model, [row[-1] for row in rows], n)
    rows = [row for row in rows for _ in range(n)]
    kinds, places, levels, digits, templates, _ = zip(*rows, strict=True)
    digits, rows = torch.tensor(digits), torch.arange(len(kinds))
    ranks = reference.rank(pictures, digits)[rows, torch.tensor(places)]
    hits = in_third(ranks, torch.tensor(levels)).float()
    right = name_digits(judge, pictures) == digits
    return {
        "in the requested third": share_by(kinds, hits),
        "by template": share_by(templates, hits),
        "digit": round(right.float().mean().item(), 4),
        "pictures": len(rows),
    }


def share_by(kinds, hits):
    """Average hits (n,) over each of n kinds: a dict from kind to share."""
    rows = {kind: torch.tensor([other == kind for other in kinds]) for kind in dict.fromkeys(kinds)}
    return {kind: round(hits[rows[kind]].float().mean().item(), 4) for kind in rows}
