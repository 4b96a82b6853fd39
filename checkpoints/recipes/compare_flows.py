"""Prior, decoder, guidance and steps, compared (13_latent_flow).

About twenty-five minutes on two cores.
"""

import copy
import functools
import itertools
import random
import time

import torch
from measuring import Variant, Yardstick, measure_row
from mnist_flow import train_autoencoder, train_flow
from running import compare
from sklearn.mixture import GaussianMixture
from torch import nn

from helpers.captions import PHRASINGS, UNSAID, write_caption, write_styled
from helpers.checkpoints import load_checkpoint
from helpers.flow import (
    LatentFlow,
    Velocity,
    collect_codes,
    gaussian_terms,
    standardise,
    train_velocity,
    transport,
    transport_by_heun,
)
from helpers.metrics import (
    draw_prompts,
    frechet_distance,
    in_third,
    name_digits,
    precision_recall_density_coverage,
)
from helpers.mnist import load_splits, to_float
from helpers.models import elbo_terms
from helpers.steering import conditions_of
from helpers.strokes import Reference
from helpers.training import train_proofreader

ORDER = ("priors", "priors of sharp codes", "guidance", "defaults", "steps", "decoders")
GUIDANCE = (1.0, 1.3, 1.5, 2.0, 3.0, 4.0, 5.0)
STEPS = (1, 2, 4, 8, 20, 50)
ACCURACIES = {"prompt accuracy, held-out": 4, "worst digit, held-out": 4}
SPEED = ACCURACIES | {"Fréchet ratio": 4, "seconds for 10,000": 4}
CROWD = ACCURACIES | {"precision": 4, "recall": 4, "coverage": 4, "Fréchet ratio": 4}
ALL = CROWD | {"train on these, test on real": 4}
DECODERS = {  # each changes one thing of the row above it: blocks, likelihood, weight of features
    "plain decoder, grey-level cross entropy": (False, elbo_terms, 0.0),
    "Gaussian likelihood": (False, gaussian_terms, 0.0),
    "FiLM blocks": (True, gaussian_terms, 0.0),
    "feature matching": (True, gaussian_terms, 100.0),
}


def measure(names):
    """Train and measure five tables, one after the other."""
    yardstick, (images, labels) = Yardstick(), load_splits()["train"]
    conditions = conditions_of(labels)
    released, _ = load_checkpoint("mnist-flow")
    tables = {
        "priors": lambda: compare_priors(images, labels, conditions, yardstick),
        "priors of sharp codes": lambda: compare_sharp(images, labels, released, yardstick),
        "guidance": lambda: compare_guidance(released, yardstick),
        "defaults": lambda: compare_defaults(released, yardstick),
        "steps": lambda: compare_steps(released, yardstick),
        "decoders": lambda: compare_decoders(images, labels, conditions, yardstick),
    }
    for name in names:
        yield name, tables[name]()


def compare_priors(images, labels, conditions, yardstick):
    """Draw codes for the CVAE of styles in six ways; its decoder stays what it is."""
    model, _ = load_checkpoint("mnist-style")
    means, deviations = collect_codes(model, images, conditions)
    centre, scale = standardise(means, deviations)
    torch.manual_seed(0)
    velocity = Velocity(model.latent)
    train_velocity(velocity, (means - centre) / scale, deviations / scale, conditions, steps=4000)

    def flow(z, condition, guidance):
        return centre + scale * transport(velocity, z, condition, guidance, 50)

    priors = {"conditional prior": model.place}
    priors |= simple_priors(means, deviations, labels) | {
        "a flow": functools.partial(flow, guidance=1.0),
        "a flow, guidance 1.3": functools.partial(flow, guidance=1.3),
    }
    return {
        name: measure_row(with_prior(model, place), yardstick, ALL)
        for name, place in priors.items()
    }


def with_prior(model, place):
    """Make a CVAE draw from codes that `place(z, condition)` gives."""
    def paint(z, condition):
        return model.decode(place(z, condition), condition).sigmoid()

    return Variant(model.latent, model.read, paint)


def compare_sharp(images, labels, model, yardstick):
    """Draw codes for the autoencoder of 13_latent_flow without its flow, digit by digit."""
    def paint(z, condition, place):
        return model.autoencoder.decode(place(z, condition)).clamp(0, 1)

    means, deviations = collect_codes(model.autoencoder, images)
    return {
        name: measure_row(
            Variant(model.latent, model.read, functools.partial(paint, place=place)), yardstick, ALL
        )
        for name, place in simple_priors(means, deviations, labels).items()
    }


def simple_priors(means, deviations, labels):
    """Make the priors that take no training: a dict from name to a function as `fit_by_digit`'s."""
    generator = torch.Generator().manual_seed(0)
    codes = means + deviations * torch.randn(means.shape, generator=generator)
    return {
        "N(0, I)": lambda z, condition: z,
        "a Gaussian for each digit": fit_by_digit(codes, labels, 1),
        "a mixture of ten for each digit": fit_by_digit(codes, labels, 10),
    }


def fit_by_digit(codes, labels, components, seed=0):
    """Fit mixtures to the codes (n, latent) of each digit: a function of z and condition."""
    mixtures = [
        GaussianMixture(components, random_state=seed).fit(codes[labels == digit].numpy())
        for digit in range(10)
    ]
    weights, means, roots = (
        torch.stack([torch.tensor(value, dtype=torch.float32) for value in values])
        for values in (
            [m.weights_ for m in mixtures], [m.means_ for m in mixtures],
            [torch.linalg.cholesky(torch.tensor(m.covariances_)).numpy() for m in mixtures],
        )
    )
    generator = torch.Generator().manual_seed(seed)

    def place(z, condition):
        digit = condition[:, :10].argmax(1)
        k = torch.multinomial(weights[digit], 1, generator=generator)[:, 0]
        return means[digit, k] + torch.einsum("nij,nj->ni", roots[digit, k], z)

    return place


def compare_guidance(model, yardstick):
    """Draw with more and more guidance."""
    return {
        str(guidance): measure_row(
            Variant(model.latent, model.read, functools.partial(model.paint, guidance=guidance)),
            yardstick, ALL,
        )
        for guidance in GUIDANCE
    }


def compare_defaults(model, yardstick):
    """Draw validation captions, plain and styled, by all that could be drawn with by default."""
    rows = {name: load_checkpoint(name)[0] for name in ("mnist-cvae", "mnist-style")}
    for guidance in GUIDANCE[:5]:
        paint = functools.partial(model.paint, guidance=guidance)
        rows[f"mnist-flow, guidance {guidance}"] = Variant(model.latent, model.read, paint)
    rows["mnist-flow, its own choice"] = model
    rng, styled = random.Random(2026), []
    for digit, place, level in itertools.product(range(10), range(4), (-2, -1, 1, 2) * 3):
        levels = [level if k == place else UNSAID for k in range(4)]
        styled.append((write_styled(digit, levels, rng), digit, place, level))
    digits = torch.arange(10).repeat_interleave(25)
    plain = [write_caption(rng.choice(PHRASINGS), d, rng.random() < 0.4) for d in digits.tolist()]
    pictures = load_splits()["validation"][0]
    real, reference = yardstick.describe(to_float(pictures)), Reference()
    floor = frechet_distance(real, yardstick.describe(yardstick.real))
    return {
        name: obey(row, styled, reference, yardstick.judge)
        | resemble(row, plain, digits, yardstick, (real, floor))
        for name, row in rows.items()
    }


def obey(model, styled, reference, judge, n=4):
    """Measure the share of styles and of digits that are drawn as captions ask."""
    captions, *asked = zip(*styled, strict=True)
    digits, places, levels = (torch.tensor(x).repeat_interleave(n) for x in asked)
    pictures = draw_prompts(model, list(captions), n)
    ranks = reference.rank(pictures, digits)[torch.arange(len(places)), places]
    right = name_digits(judge, pictures) == digits
    shares = {"styles obeyed": in_third(ranks, levels), "digit, styled": right}
    return {name: round(share.float().mean().item(), 4) for name, share in shares.items()}


def resemble(model, plain, digits, yardstick, real, n=20):
    """Measure what plain captions draw: digits, and the distance to `real`: features, floor."""
    pictures, (features, floor) = draw_prompts(model, plain, n), real
    right = name_digits(yardstick.judge, pictures) == digits.repeat_interleave(n)
    drawn = yardstick.describe(pictures)
    return {
        "digit, plain": round(right.float().mean().item(), 4),
        "Fréchet ratio": round(frechet_distance(features, drawn) / floor, 4),
        "coverage": round(precision_recall_density_coverage(features, drawn)["coverage"], 4),
    }


def compare_steps(model, yardstick):
    """Draw with few and many steps, by Euler and by Heun, at the released guidance."""
    def paint_by_heun(z, condition, steps):
        codes = transport_by_heun(model.velocity, z, condition, model.guidance, steps)
        return model.autoencoder.decode(model.centre + model.scale * codes).clamp(0, 1)

    euler = functools.partial(model.paint, guidance=model.guidance)
    return {
        name: {
            str(steps): measure_row(
                Variant(model.latent, model.read, functools.partial(paint, steps=steps)),
                yardstick, SPEED,
            )
            for steps in STEPS
        }
        for name, paint in (("Euler", euler), ("Heun", paint_by_heun))
    }


class Unchanged(nn.Module):
    """Stands where a `FilmBlock` was, and does nothing."""

    def forward(self, maps, code):
        """Return maps (n, c, h, w)."""
        return maps


def compare_decoders(images, labels, conditions, yardstick, steps=1600):
    """Train autoencoders and their flows, step by step, on a smaller budget."""
    reader, _ = load_checkpoint("mnist-style")
    proofreader = train_proofreader(images, labels)
    results = {}
    for name, (film, terms, weight) in DECODERS.items():
        torch.manual_seed(0)
        model = LatentFlow()
        model.head = copy.deepcopy(reader.head)
        if not film:
            model.autoencoder.block1, model.autoencoder.block2 = Unchanged(), Unchanged()
        penalty = feature_penalty(proofreader, weight) if weight else None
        start = time.process_time()
        train_autoencoder(model.autoencoder, images, terms, penalty, steps)
        seconds = round(time.process_time() - start)
        if terms is elbo_terms:  # it was trained on logits
            model.autoencoder.ink = nn.Sequential(model.autoencoder.ink, nn.Sigmoid())
        train_flow(model, images, conditions, steps=2500)
        results[name] = {"CPU seconds": seconds} | measure_rebuilt(model, yardstick)
        paint = functools.partial(model.eval().paint, guidance=model.guidance)
        results[name] |= measure_row(Variant(model.latent, model.read, paint), yardstick, CROWD)
    return results


def feature_penalty(network, weight):
    """Make a penalty for `train_autoencoder` from `match_features`, on the scale of nats."""
    return lambda painted, pictures: weight * match_features(painted, pictures, network).log()


def match_features(painted, pictures, network):
    """Compare what the first two layers of a `Proofreader` see in pictures (n, 1, 28, 28).

    A feature-matching or perceptual loss (Dosovitskiy and Brox, 2016; Johnson et al., 2016): a
    scalar, squared differences over squared features.
    """
    total, layers = 0.0, list(network)
    for convolution, activation in (layers[:2], layers[2:4]):
        painted, pictures = (activation(convolution(x)) for x in (painted, pictures))
        total = total + (painted - pictures).square().mean() / pictures.square().mean()
    return total


@torch.no_grad()
def measure_rebuilt(model, yardstick):
    """Encode and decode 10,000 real pictures: their Fréchet ratio, their squared error."""
    rebuilt = torch.cat([
        model.autoencoder.decode(model.autoencoder.encode(part)[0]).clamp(0, 1)
        for part in yardstick.real.split(500)
    ])
    distance = frechet_distance(yardstick.test_features, yardstick.describe(rebuilt))
    return {
        "rebuilt, Fréchet ratio": round(distance / yardstick.floor, 4),
        "rebuilt, squared error": round((rebuilt - yardstick.real).square().mean().item(), 5),
    }


if __name__ == "__main__":
    compare("flow-comparisons", ORDER, measure, minutes=5, choice=True)
