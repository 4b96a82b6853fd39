"""Independent judges and what they measure. A judge never takes part in training a generator.

Judge A names digits (`DigitJudge`), judge B describes pictures (`FeatureJudge`), and a third names
shapes. The measures of notebook 10 follow them.
"""

import hashlib
import math
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load
from torch import nn
from tqdm.auto import tqdm

from helpers.characters import CharacterTokenizer
from helpers.mnist import to_float
from helpers.shapes import PROMPTS, draw_all_shapes, draw_shapes
from helpers.training import train_classifier

JUDGES = Path(__file__).resolve().parents[1] / "checkpoints" / "judges"
JUDGE_SHA256 = {
    "digits": "ce9cddc64cad320690796023ae6d04188a7a010b4c19b54d8e995831dc97f2aa",
    "features": "e1a25b757a1461e32f974affe40b7a8d88f0f2e5cc7f2491b7dea9d58640feca",
}


class DigitJudge(nn.Sequential):
    """A LeNet-like classifier of digits (LeCun et al., 1998): (n, 1, 28, 28) → (n, 10) logits.

    Trained on real MNIST alone, with its own architecture and seed.
    """

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
    """A classifier whose last layer but one describes a picture in 96 numbers (notebook 10).

    Small windows, batch norm and an average over the picture: (n, 1, 28, 28) → (n, 10) logits.
    Its own architecture, seed and training, so that it shares no habits with `DigitJudge`.
    """

    def __init__(self):
        super().__init__(
            *_block(1, 24), *_block(24, 24, 2),            # 24×14×14
            *_block(24, 48), *_block(48, 48, 2),           # 48×7×7
            *_block(48, 96),                               # 96×7×7
            nn.AdaptiveAvgPool2d(1), nn.Flatten(),         # 96
            nn.Linear(96, 10),                             # 10
        )

    def describe(self, pictures, batch=1000):
        """Map pictures (n, 1, 28, 28) to features (n, 96), float64."""
        describe = nn.Sequential(*list(self)[:-1])
        with torch.no_grad():
            return torch.cat([describe(part).double() for part in pictures.split(batch)])


def load_digit_judge(path=JUDGES / "digits.safetensors"):
    """Load the released judge A: a `DigitJudge` in evaluation mode.

    Raises:
        ValueError: the file is missing, damaged, or not the one that was released.
    """
    return _load_judge(DigitJudge(), path, "digits")


def load_feature_judge(path=JUDGES / "features.safetensors"):
    """Load the released judge B: a `FeatureJudge` in evaluation mode.

    Raises:
        ValueError: the file is missing, damaged, or not the one that was released.
    """
    return _load_judge(FeatureJudge(), path, "features")


def _load_judge(judge, path, name):
    restore = "restore it with 'git checkout -- checkpoints'"
    if not path.is_file():
        raise ValueError(f"{path} is missing: {restore}.")
    packed = path.read_bytes()
    if hashlib.sha256(packed).hexdigest() != JUDGE_SHA256[name]:
        raise ValueError(f"{path} is not the released judge: {restore}.")
    judge.load_state_dict(load(packed))
    return judge.eval()


def train_digit_judge(images, labels, epochs=14, seed=1234):
    """Train judge A on real pictures: a `DigitJudge` in evaluation mode (`train_classifier`)."""
    torch.manual_seed(seed)
    return train_classifier(DigitJudge(), images, labels, epochs)


def train_feature_judge(images, labels, epochs=8, seed=4321):
    """Train judge B on real pictures: a `FeatureJudge` in evaluation mode (`train_classifier`)."""
    torch.manual_seed(seed)
    return train_classifier(FeatureJudge(), images, labels, epochs)


@torch.no_grad()
def name_digits(judge, pictures, batch=1000):
    """Ask a judge which digit each picture shows.

    Args:
        judge: a module from (n, 1, 28, 28) to (n, 10) logits, in evaluation mode.
        pictures: float32 tensor (n, 1, 28, 28) with values in [0, 1].
        batch: pictures per call.

    Returns:
        int64 tensor (n,), the digits 0 to 9.
    """
    return torch.cat([judge(part).argmax(1) for part in pictures.split(batch)])


class ShapeJudge(nn.Sequential):
    """A small classifier of the nine shapes: (n, 1, 28, 28) → (n, 9) logits (notebook 4)."""

    def __init__(self):
        super().__init__(
            nn.Conv2d(1, 16, 3, stride=2, padding=1), nn.ReLU(),   # n×16×14×14
            nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.ReLU(),  # n×32×7×7
            nn.Flatten(),                                          # n×1568
            nn.Linear(1568, 64), nn.ReLU(),                        # n×64
            nn.Linear(64, 9),                                      # n×9
        )


def train_shape_judge(steps=1500, seed=99):
    """Train a judge of shapes on fresh drawings whose grey values are read as probabilities.

    Args:
        steps: steps of 144 pictures, 16 of each prompt.
        seed: for the weights and the drawings.

    Returns:
        A `ShapeJudge` in evaluation mode.
    """
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    judge = ShapeJudge()
    optimizer = torch.optim.Adam(judge.parameters(), lr=1e-3, fused=True)
    for _ in tqdm(range(steps), desc="judge"):
        pictures, prompt_ids = draw_all_shapes(16, generator)
        pixels = pictures.bernoulli(generator=generator)[:, None]
        loss = F.cross_entropy(judge(pixels), prompt_ids)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return judge.eval()


@torch.no_grad()
def draw_balanced(model, inputs, digits, n=10_000, seed=0, temperature=1.0):
    """Draw straight from the prior, the same number of pictures for every digit.

    Args:
        model: a generator in evaluation mode, with `latent` and `draw(inputs, z)`.
        inputs: what it reads, as for embeddings a float32 tensor (m, 384).
        digits: int64 tensor (m,), the digit that each input asks for.
        n: pictures; each digit gets n / 10 of them, from inputs drawn at random among its own.
        seed: for the choice of inputs and for the latents.
        temperature: factor on the latents; only 1 draws from the prior.

    Returns:
        pictures: float32 tensor (n, 1, 28, 28) with values in [0, 1], digit by digit.
        rows: int64 tensor (n,), which input each was drawn from; `digits[rows]` was asked for.
    """
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
    """Count how many pictures straight from the prior show the digit that was asked for.

    Args:
        model, inputs, digits, n, seed: see `draw_balanced`.
        judge: see `name_digits`.

    Returns:
        The share of correct pictures over all, and a float32 tensor (10,) with the share per digit.
    """
    pictures, rows = draw_balanced(model, inputs, digits, n, seed)
    shares = (name_digits(judge, pictures) == digits[rows]).float().reshape(10, -1).mean(1)
    return shares.mean().item(), shares


def wilson_interval(share, n, z=1.96):
    """Give the 95% interval of a share of n independent trials (Wilson, 1927): low, high."""
    middle = share + z**2 / (2 * n)
    half = z * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    low, high = (middle - half) / (1 + z**2 / n), (middle + half) / (1 + z**2 / n)
    return max(0.0, low), min(1.0, high)


def frechet_distance(real, drawn):
    """Compare the Gaussians fitted to two sets of features (Heusel et al., 2017).

    Args:
        real, drawn: float64 tensors (n, d) and (m, d), such as `FeatureJudge.describe` gives.

    Returns:
        |mean difference|² + trace(A + B − 2·(A·B)^½) for the covariances A and B; 0 if both sets
        have the same mean and covariance. In squared units of the features.
    """
    gap = real.mean(0) - drawn.mean(0)
    a, b = real.T.cov(), drawn.T.cov()
    sizes, axes = torch.linalg.eigh(a)
    root = axes * sizes.clamp(min=0).sqrt()  # root @ root.T is a
    roots = torch.linalg.eigvalsh(root.T @ b @ root).clamp(min=0).sqrt()
    return (gap.square().sum() + a.trace() + b.trace() - 2 * roots.sum()).item()


def kernel_distance(real, drawn, subsets=100, size=1000, seed=0):
    """Estimate the squared MMD with a cubic kernel without bias, KID (Bińkowski et al., 2018).

    Args:
        real, drawn: float64 tensors (n, d) and (m, d).
        subsets: how many random pairs of subsets are averaged.
        size: rows in a subset.
        seed: for the choice of rows.

    Returns:
        The mean over the subsets; about 0, possibly below, if both come from one distribution.

    Raises:
        ValueError: a set has fewer rows than a subset.
    """
    rows = min(len(real), len(drawn))
    if rows < size:
        raise ValueError(f"{rows} rows do not fill a subset of {size}: draw more, or lower size.")
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
    """Ask who lies in whose neighbourhood (Kynkäänniemi et al., 2019; Naeem et al., 2020).

    A neighbourhood is the ball around a point that reaches to its k-th nearest in its own set.

    Args:
        real, drawn: float64 tensors (n, d) and (m, d).
        k: which neighbour sets the radius.

    Returns:
        precision: share of drawn points in some real neighbourhood.
        recall: share of real points in some drawn neighbourhood.
        density: real neighbourhoods that a drawn point lies in, on average, over k; about 1 if
            both come from one distribution, and it can be larger.
        coverage: share of real neighbourhoods with a drawn point in them.
    """
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
    """Train a small classifier on these pictures and test it on real ones (Ravuri & Vinyals, 2019).

    The classifier is a fresh `DigitJudge`; it meets the pictures as bytes, like the real ones.

    Args:
        pictures: float32 tensor (n, 1, 28, 28) with values in [0, 1], drawn or real.
        digits: int64 tensor (n,), what they should show.
        test_images, test_labels: uint8 tensor (m, 28, 28) and int64 tensor (m,), real.
        epochs, seed: how long it is trained, and the seed of its weights and order.

    Returns:
        The share of the real test pictures that it names correctly.
    """
    images = (pictures[:, 0] * 255).round().to(torch.uint8)
    torch.manual_seed(seed)
    student = train_classifier(DigitJudge(), images, digits, epochs)
    return (name_digits(student, to_float(test_images)) == test_labels).float().mean().item()


def nearest_pictures(pictures, others, batch=500):
    """Find the nearest of other pictures for each picture.

    Args:
        pictures, others: float32 tensors (n, 1, 28, 28) and (m, 1, 28, 28).
        batch: pictures compared at once.

    Returns:
        distances: float32 tensor (n,), Euclidean over the 784 pixels.
        rows: int64 tensor (n,), which of the others is nearest.
    """
    flat = others.flatten(1)
    parts = pictures.flatten(1).split(batch)
    rows = torch.cat([torch.cdist(part, flat).argmin(1) for part in parts])
    return (pictures - others[rows]).flatten(1).norm(dim=1), rows  # cdist rounds small distances


def binarise(images, seed=0):
    """Toss every pixel with its grey level as probability: uint8 (n, 28, 28) → (n, 1, 28, 28)."""
    return to_float(images).bernoulli(generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def log_weights(model, pictures, inputs, samples, generator):
    """Draw codes from the posterior and weigh them: log p(x|z, c) + log p(z) − log q(z|x, c).

    Args:
        model: a `ConvCVAE` in evaluation mode.
        pictures: float32 tensor (n, 1, 28, 28) of zeros and ones.
        inputs: embeddings (n, 384) of captions.
        samples: codes for each picture.
        generator: a `torch.Generator`, used up further.

    Returns:
        float32 tensor (samples, n) in nats. The mean over samples is the ELBO; `log_mean` of them
        the tighter bound of Burda et al. (2016).
    """
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
    """Average in the space of probabilities: log weights (samples, n) → (n,) nats."""
    return weights.logsumexp(0) - math.log(len(weights))


def bounds_by_digit(model, picture, captions, samples, generator, glance=20, margin=15):
    """Bound log p(x | caption) for one caption of every digit.

    A first glance with few samples tells which digits the picture might show; only those within
    `margin` nats of the best get all samples. The others keep what was seen, still a lower bound.
    With nobody to say the digit, log p(x) is `log_mean` of the ten.

    Args:
        model: see `log_weights`.
        picture: float32 tensor (1, 28, 28) of zeros and ones.
        captions: embeddings (10, 384), one caption of every digit.
        samples: codes for each likely digit.
        generator: a `torch.Generator`, used up further.
        glance: codes for the first look.
        margin: nats.

    Returns:
        float32 tensor (10,) in nats.
    """
    ten = picture.expand(10, 1, 28, 28)
    bounds = log_mean(log_weights(model, ten, captions, glance, generator))
    likely = bounds > bounds.max() - margin
    weights = log_weights(model, ten[likely], captions[likely], samples, generator)
    bounds[likely] = log_mean(weights)
    return bounds


@torch.no_grad()
def shape_accuracy_and_variety(model, judge, n=500):
    """Judge what a generator of shapes draws straight from the prior, and how much it varies.

    Args:
        model: a generator in evaluation mode that reads tokens.
        judge: a `ShapeJudge`.
        n: pictures of each prompt.

    Returns:
        accuracies: float32 tensor (9,), the share of pixel-sampled pictures that show the prompt.
        ratios: float32 tensor (9,), the variance of the mean pictures over that of the program's.
    """
    tokens = CharacterTokenizer().encode(PROMPTS)
    z = torch.randn(n, model.latent, generator=torch.Generator().manual_seed(0))
    toss = torch.Generator().manual_seed(1)
    accuracies, ratios = torch.zeros(9), torch.zeros(9)
    for k, prompt in enumerate(PROMPTS):
        pictures = model.draw(tokens[[k]].expand(n, -1), z)
        named = name_digits(judge, pictures.bernoulli(generator=toss))
        accuracies[k] = (named == k).float().mean()
        ratios[k] = pictures.var(0).mean() / draw_shapes(prompt, n, seed=5).var(0).mean()
    return accuracies, ratios
