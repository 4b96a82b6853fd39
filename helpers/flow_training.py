"""Training a latent flow: the autoencoder, its codes, the velocity network (notebook 12)."""

import itertools
import math

import torch
import torch.nn.functional as F
from tqdm.auto import tqdm

from helpers.everyday import caption_pictures
from helpers.mnist import to_float
from helpers.models import kl_divergence, sample_posterior
from helpers.strokes import load_strokes, measure_styles
from helpers.style_training import fit
from helpers.styles import level_of, rank_within_digit
from helpers.training import check_loss, warm_up


def gaussian_terms(painted, pictures, mean, log_variance):
    """Compute both terms of the negative ELBO in nats per picture, with a Gaussian for each pixel.

    Its width is the one that fits the batch best (Rybkin et al., 2021), so nobody has to weigh the
    two terms: the better the pictures, the more a remaining error counts.

    Args:
        painted: float32 tensor (n, 1, 28, 28), what the decoder makes of the codes.
        pictures: float32 tensor of the same shape with values in [0, 1].
        mean, log_variance: the posterior, (n, latent) each.

    Returns:
        reconstruction and kl, two scalars; the first may be negative, as a density can be large.
    """
    error = (painted - pictures).square().mean()
    reconstruction = 784 / 2 * (1 + (2 * math.pi * error).log())
    return reconstruction, kl_divergence(mean, log_variance).sum(1).mean()


def match_features(painted, pictures, network):
    """Compare what the first two layers of a frozen classifier see in two sets of pictures.

    A feature-matching or perceptual loss (Dosovitskiy and Brox, 2016; Johnson et al., 2016).

    Args:
        painted, pictures: float32 tensors (n, 1, 28, 28).
        network: a `Proofreader`; it must not be a judge.

    Returns:
        A scalar: squared differences over squared features, added up over both layers.
    """
    total, layers = 0.0, list(network)
    for convolution, activation in (layers[:2], layers[2:4]):
        painted, pictures = (activation(convolution(x)) for x in (painted, pictures))
        total = total + (painted - pictures).square().mean() / pictures.square().mean()
    return total


def train_autoencoder(
    model, images, terms=gaussian_terms, penalty=None, steps=5400, batch=64, rate=4e-3, seed=0
):
    """Train an `Autoencoder` on pictures alone, with a KL that is warmed up.

    Args:
        model: its weights are changed; it is left frozen in evaluation mode.
        images: uint8 tensor (n, 28, 28).
        terms: `gaussian_terms`, or another function of the same arguments.
        penalty: a function from (painted, pictures) to a scalar that joins the loss.
        steps, batch, rate: how long, pictures a step, the highest learning rate.
        seed: for the order and the posterior's noise.

    Returns:
        A list with the loss of each step, in nats per picture.

    Raises:
        FloatingPointError: the loss is not a number any more.
    """
    generator = torch.Generator().manual_seed(seed)

    def loss(step):
        rows = torch.randint(len(images), (batch,), generator=generator)
        pictures = to_float(images[rows])
        mean, log_variance = model.encode(pictures)
        painted = model.decode(sample_posterior(mean, log_variance, generator))
        reconstruction, kl = terms(painted, pictures, mean, log_variance)
        total = reconstruction + warm_up(step / steps, beta=1.0, share=0.2) * kl
        return total + penalty(painted, pictures) if penalty else total

    return _fit_and_freeze(model, loss, steps, rate, "autoencoder")


def _fit_and_freeze(model, loss_of, steps, rate, name):
    """Minimise `loss_of(step)` under a bar that shows it, then freeze the model."""
    bar, count = tqdm(total=steps, desc=name), itertools.count()

    def loss():
        step = next(count)  # a bar that is switched off does not count
        value = loss_of(step)
        check_loss(value.item(), step)
        bar.update()
        bar.set_postfix(loss=f"{value.item():.4g}", refresh=False)
        return value

    with bar:
        losses = fit(model.train().parameters(), loss, steps, rate)
    model.requires_grad_(False).eval()
    return losses


@torch.no_grad()
def collect_codes(model, images, *conditions):
    """Encode pictures: means and deviations of their posteriors, (n, latent) each.

    Args:
        model: an `Autoencoder`, or a CVAE.
        images: uint8 tensor (n, 28, 28).
        conditions: for a CVAE, its conditions (n, condition).
    """
    parts = zip(images.split(1000), *(given.split(1000) for given in conditions), strict=True)
    posteriors = [model.encode(to_float(part), *given) for part, *given in parts]
    means, log_variances = (torch.cat(part) for part in zip(*posteriors, strict=True))
    return means, (log_variances / 2).exp()


def standardise(means, deviations):
    """Find centre and scale of codes drawn from posteriors (n, latent): two tensors (latent,)."""
    spread = means.var(0) + deviations.square().mean(0)
    return means.mean(0), spread.sqrt()


def write_conditions(digits, said):
    """Write what a perfect reader would answer: digits (n,), levels (n, 4) → conditions (n, 34)."""
    levels = F.one_hot(said + 2, 6).flatten(1)
    return torch.cat([F.one_hot(digits, 10), levels], dim=1).float()


def conditions_of(labels):
    """Write the condition of every training picture, as its caption would be read: (n, 34)."""
    measures = measure_styles(load_strokes()[: len(labels)])
    levels = level_of(rank_within_digit(measures, labels, measures, labels))
    return write_conditions(labels, caption_pictures(levels, labels)[1])


def flow_loss(velocity, codes, conditions, generator, drop=0.1):
    """Compare velocities with straight lines from noise to codes (Lipman et al., 2023).

    Times are drawn more often near the middle, where it is hardest to tell where a line leads
    (Esser et al., 2024); some conditions are replaced by zeros, so that the network also learns to
    go without one (Ho and Salimans, 2022).

    Args:
        velocity: a `Velocity`.
        codes: float32 tensor (n, latent), about standard normal in size.
        conditions: float32 tensor (n, 34).
        generator: a `torch.Generator`, used up further.
        drop: share of conditions that are dropped.

    Returns:
        The mean squared error, a scalar.
    """
    noise = torch.randn(codes.shape, generator=generator)
    t = torch.randn(len(codes), generator=generator).sigmoid()
    kept = torch.rand(len(codes), 1, generator=generator) >= drop
    x = (1 - t[:, None]) * noise + t[:, None] * codes
    return F.mse_loss(velocity(x, t, conditions * kept), codes - noise)


def train_velocity(
    velocity, means, deviations, conditions, steps=5000, batch=256, rate=2e-3, seed=0
):
    """Train a `Velocity` on codes drawn from the posteriors of real pictures.

    Args:
        velocity: its weights are changed; it is left frozen in evaluation mode.
        means, deviations: float32 tensors (n, latent), about standard normal in size.
        conditions: float32 tensor (n, 34).
        steps, batch, rate: how long, codes a step, the highest learning rate.
        seed: for order and noise.

    Returns:
        A list with the loss of each step.

    Raises:
        FloatingPointError: the loss is not a number any more.
    """
    generator = torch.Generator().manual_seed(seed)

    def loss(step):
        rows = torch.randint(len(means), (batch,), generator=generator)
        noise = torch.randn(batch, means.shape[1], generator=generator)
        codes = means[rows] + deviations[rows] * noise
        return flow_loss(velocity, codes, conditions[rows], generator)

    return _fit_and_freeze(velocity, loss, steps, rate, "flow")


def train_flow(model, images, conditions, steps=5000, seed=0):
    """Train the flow of a `LatentFlow` whose autoencoder is trained, and keep centre and scale.

    Args:
        model: its velocity network, centre and scale are changed.
        images: uint8 tensor (n, 28, 28).
        conditions: float32 tensor (n, 34), see `write_conditions`.
        steps, seed: see `train_velocity`.

    Returns:
        A list with the loss of each step.
    """
    means, deviations = collect_codes(model.autoencoder, images)
    centre, scale = standardise(means, deviations)
    model.centre.copy_(centre)
    model.scale.copy_(scale)
    return train_velocity(
        model.velocity, (means - centre) / scale, deviations / scale, conditions, steps, seed=seed
    )
